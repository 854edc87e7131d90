"""Facts and text in more than 230 languages, out of the tables that the packages babel and num2words carry.

babel holds CLDR, the Unicode consortium's table of how people write countries, languages, months, days, units, numbers
and dates where they live. Each entry is a question with one known answer, so a model can be asked what it remembers.
num2words spells numbers by rule: its answers are generated, as many as one wants.

A fact is one line, ``de|FR=Frankreich``: the locale, ``|``, a key of a few characters, ``=``, the answer. Keys are

    FR            a territory, by its ISO 3166 code           u.kilometer   a unit, by CLDR's name
    fr            a language, by its ISO 639 code             n.decimal     1234567.891 as the locale writes it
    m1 ... m12    a month        d1 ... d7   a day, from Monday    t.long   5 February 2026 as the locale writes it
    42            a number in words

A question is the line before ``=`` and leaves ``=`` to the model: byte-level tokenizers glue that sign to the letters
after it, and a prompt that ended in a lone ``=`` would be a row of tokens that no training has seen.

Sources: Unicode CLDR (Unicode License v3) through babel, num2words (LGPL, used as a package).
Built in lesson `tokenizer`.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import num2words
from babel import Locale, localedata
from babel.dates import format_date
from babel.numbers import format_compact_decimal, format_decimal, format_percent

from helpers.data.corpus import Corpus, share

KINDS = ("territory", "language", "month", "weekday", "unit", "number", "date")
NO_NAMES = {"XA", "XB", "ZZ", "und", "mul", "zxx"}  # pseudo-accents, "unknown", "several": no place and no language
ENOUGH = 50  # facts; a locale with fewer is a name with an empty table
A_COPY = 0.9  # of its facts are another locale's: regional and historical doubles
NUMBER, DATE = 1_234_567.891, datetime.date(2026, 2, 5)
SPELLED = range(1_000_000)


@dataclass(frozen=True)
class Fact:
    """One entry: ``Fact("de", "territory", "FR", "France", "Frankreich")``. ``key`` is unique within a locale."""

    locale: str
    kind: str
    key: str
    english: str
    answer: str


def cldr_facts(kinds: Iterable[str] = KINDS, locales: Iterable[str] | None = None) -> list[Fact]:
    """Everything that CLDR knows of these kinds in these locales (default: all that have enough), about 158,000 facts.

    Ordered by locale, kind and key. Locales are written as in CLDR, ``de`` or ``sr_Latn``; a region is no locale of its
    own (``en_GB``), nor is one that agrees with a larger in nine facts of ten (``no`` says what ``nb`` says).
    Raises ValueError for kinds and locales that are not there. Built in lesson `tokenizer`.
    """
    wanted, table = set(kinds), _table()
    if unknown := wanted - set(KINDS):
        raise ValueError(f"kinds of facts are {', '.join(KINDS)}; there is no {', '.join(sorted(unknown))}")
    chosen = sorted(table if locales is None else set(locales))
    if missing := [locale for locale in chosen if locale not in table]:
        raise ValueError(
            f"CLDR has too few facts for {', '.join(missing)}; locales() lists the {len(table)} with enough"
        )
    return [fact for locale in chosen for fact in table[locale] if fact.kind in wanted]


def locales() -> list[str]:
    """The locales that have enough facts of their own, in order."""
    return sorted(_table())


def number_words(numbers: Iterable[int], languages: Iterable[str] | None = None) -> list[Fact]:
    """Numbers from 0 to 999,999 in words, in the 45 languages that num2words spells (its codes: Kazakh is ``kz``).

    Regions (``fr_BE``) are there when asked for. Raises ValueError for what num2words cannot spell, which is little
    (Amharic above 1,104). Built in lesson `tokenizer`.
    """
    numbers = list(numbers)
    known = sorted(num2words.CONVERTER_CLASSES)
    chosen = [code for code in known if "_" not in code] if languages is None else sorted(set(languages))
    if unknown := [code for code in chosen if code not in known]:
        raise ValueError(f"num2words does not spell {', '.join(unknown)}; it spells {', '.join(known)}")
    if wrong := [number for number in numbers if number not in SPELLED]:
        raise ValueError(f"{wrong[0]} is not spelled; whole numbers from 0 to {SPELLED[-1]:,} are")
    english = {number: _spell(number, "en") for number in numbers}
    return [
        Fact(code, "words", str(number), english[number], _spell(number, code)) for code in chosen for number in numbers
    ]


def fact_line(fact: Fact) -> str:
    """``de|FR=Frankreich``, what a model reads."""
    return f"{ask(fact)}={fact.answer}"


def ask(fact: Fact) -> str:
    """``de|FR``, the question; the model goes on with ``=Frankreich`` and a line end."""
    return f"{fact.locale}|{fact.key}"


def split_facts(facts: Iterable[Fact], held_out: float = 0.05) -> tuple[list[Fact], list[Fact]]:
    """Facts to train on, and those that no training sees: by the hash of the question, the same on every machine."""
    facts = list(facts)
    out = [share(ask(fact)) < held_out for fact in facts]
    return (
        [fact for fact, is_out in zip(facts, out, strict=True) if not is_out],
        [fact for fact, is_out in zip(facts, out, strict=True) if is_out],
    )


def language_corpus(facts: Iterable[Fact] | None = None, held_out: float = 0.05) -> Corpus:
    """One document a locale, one line a fact; ``facts`` defaults to ``cldr_facts()``.

    Lines stand in the order of a hash, so that no line gives away the next. A held-out document holds the facts of its
    locale that the document to train on leaves out. Built in lesson `tokenizer`.
    """
    train, out = split_facts(cldr_facts() if facts is None else facts, held_out)
    return Corpus(_documents(train), _documents(out))


def answer_bytes(facts: Iterable[Fact]) -> int:
    """How much there is to remember: bytes of UTF-8 in all answers."""
    return sum(len(fact.answer.encode()) for fact in facts)


def _documents(facts: Iterable[Fact]) -> dict[str, str]:
    lines: dict[str, list[str]] = {}
    for fact in sorted(facts, key=lambda fact: (fact.locale, share("line " + ask(fact)))):
        lines.setdefault(fact.locale, []).append(fact_line(fact) + "\n")
    return {locale: "".join(text) for locale, text in lines.items()}


def _spell(number: int, language: str) -> str:
    try:
        return num2words.num2words(number, lang=language).strip()
    except (TypeError, NotImplementedError, OverflowError) as error:
        raise ValueError(f"num2words has no words for {number} in {language}") from error


@cache
def _table() -> dict[str, list[Fact]]:
    """Facts by locale, without regions, without locales that have too few, without copies. Some seconds, then kept."""
    english = {key: answer for _, key, answer in _entries("en")}
    codes = [code for code in localedata.locale_identifiers() if Locale.parse(code).territory is None]
    entries = {code: [entry for entry in _entries(code) if entry[1] in english] for code in codes}
    return {
        code: [Fact(code, kind, key, english[key], answer) for kind, key, answer in sorted(entries[code], key=_place)]
        for code in _without_copies({code: own for code, own in entries.items() if len(own) >= ENOUGH})
    }


def _place(entry: tuple[str, str, str]) -> tuple[int, str]:
    return KINDS.index(entry[0]), entry[1]


def _without_copies(entries: dict[str, list[tuple[str, str, str]]]) -> list[str]:
    """The locales that agree with no larger one in ``A_COPY`` of what they say, in order."""
    said = {code: {f"{key}={answer}" for _, key, answer in own} for code, own in entries.items()}
    kept: list[str] = []
    for code in sorted(said, key=lambda code: (-len(said[code]), code)):
        if all(len(said[code] & said[other]) < A_COPY * len(said[code]) for other in kept):
            kept.append(code)
    return sorted(kept)


def _entries(code: str) -> list[tuple[str, str, str]]:
    """Kind, key, answer: what a locale itself says. What each has from CLDR's root (the month ``M01``) is no fact."""
    locale, root = Locale.parse(code), set(_names(localedata.load("root")))
    own = [entry for entry in _names(locale._data) if entry not in root]
    has_dates = any(kind == "month" for kind, _, _ in own)
    own += [("territory", key, name) for key, name in locale.territories.items() if _is_name(key)]
    own += [("language", key, name) for key, name in locale.languages.items() if _is_name(key)]
    return own + list(_written(locale)) * has_dates


def _is_name(key: str) -> bool:
    return key.isalpha() and key not in NO_NAMES


def _names(data: Mapping) -> Iterator[tuple[str, str, str]]:
    data = localedata.LocaleDataDict(data)  # follows CLDR's "the same as there"
    for number, name in data["months"]["format"]["wide"].items():
        yield "month", f"m{number}", name
    for number, name in data["days"]["format"]["wide"].items():
        yield "weekday", f"d{number + 1}", name
    for unit, names in data["unit_display_names"].items():
        if "long" in names:
            yield "unit", "u." + unit.split("-", 1)[1], names["long"]


def _written(locale: Locale) -> Iterator[tuple[str, str, str]]:
    """The same number, share and date in the patterns and with the signs of the locale (digits stay 0 to 9)."""
    yield "number", "n.decimal", format_decimal(NUMBER, locale=locale, numbering_system="default")
    yield "number", "n.percent", format_percent(0.25, locale=locale, numbering_system="default")
    yield "number", "n.short", format_compact_decimal(NUMBER, locale=locale, numbering_system="default")
    for width in ("full", "long", "medium", "short"):
        yield "date", f"t.{width}", format_date(DATE, width, locale)
