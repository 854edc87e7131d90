"""The same text in more than 230 languages: the days, the months and one date, as CLDR writes them.

Source: Unicode CLDR (Unicode License v3) through babel. Built in lesson `tokenizer`.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from babel import Locale

from helpers.data.languages import cldr_facts

CALENDAR = (*(f"d{day}" for day in range(1, 8)), *(f"m{month}" for month in range(1, 13)), "t.full")
_BRAHMIC = ["DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM"]
_BRAHMIC += ["SINHALA", "THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "CHAKMA", "JAVANESE", "MEETEI", "SUNDANESE"]
_SCRIPTS = {
    "Latin": ["LATIN"],
    "Cyrillic": ["CYRILLIC"],
    "Arabic": ["ARABIC"],
    "Brahmic": _BRAHMIC,
    "Han, Kana, Hangul": ["CJK", "HIRAGANA", "KATAKANA", "HANGUL"],
}
SCRIPTS = (*_SCRIPTS, "other")
_SCRIPT = {word: script for script, words in _SCRIPTS.items() for word in words}


def calendar_texts(locales: Iterable[str] | None = None) -> dict[str, str]:
    """Locale -> 20 lines: Monday to Sunday, January to December, Thursday, 5 February 2026.

    Every locale that has all of them, by default about 250 in more than 230 languages. Built in lesson `tokenizer`.
    """
    lines: dict[str, dict[str, str]] = {}
    for fact in cldr_facts(["weekday", "month", "date"], locales):
        lines.setdefault(fact.locale, {})[fact.key] = fact.answer
    complete = {locale: own for locale, own in lines.items() if own.keys() >= set(CALENDAR)}
    return {locale: "\n".join(own[key] for key in CALENDAR) for locale, own in complete.items()}


def fingerprints(texts: Mapping[str, str]) -> dict[str, str]:
    """Locale -> the first eight digits of the SHA-256 of its text, as a record of that text keeps them."""
    return {locale: hashlib.sha256(text.encode()).hexdigest()[:8] for locale, text in texts.items()}


def same_texts(texts: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """The locales whose text is, to the letter, the one whose fingerprint was recorded, in the order of ``texts``."""
    return [locale for locale, mark in fingerprints(texts).items() if recorded.get(locale) == mark]


def script(text: str) -> str:
    """The group of scripts, one of ``SCRIPTS``, that most letters of the text belong to; "other" without letters.

    Brahmic holds the scripts of South and Southeast Asia that descend from Brahmi.
    """
    words = Counter(unicodedata.name(sign, "?").split()[0] for sign in text if sign.isalpha())
    return _SCRIPT.get(max(words, key=words.get), "other") if words else "other"


def language_name(locale: str) -> str:
    """What English calls it: ``sr_Latn`` is Serbian (Latin). Raises ValueError for what is no locale."""
    try:
        return Locale.parse(locale).get_display_name("en") or locale
    except (ValueError, LookupError) as error:
        raise ValueError(f"{locale!r} is no locale of CLDR, such as de or sr_Latn") from error
