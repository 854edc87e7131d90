"""The same twenty lines in more than 230 languages, each with its script and its English name."""

import pytest
from support.drift import hold_to_record

from helpers.data.parallel import CALENDAR, SCRIPTS, calendar_texts, fingerprints, language_name, same_texts, script
from helpers.facts import table


def test_the_calendar_is_complete_in_more_than_two_hundred_and_thirty_languages():
    texts = calendar_texts()
    assert len({locale.split("_")[0] for locale in texts}) > 230
    assert all(len(text.split("\n")) == len(CALENDAR) == 20 for text in texts.values())
    assert all(line.strip() for text in texts.values() for line in text.split("\n"))


def test_lines_stand_in_the_order_of_the_week_and_the_year():
    lines, german = (calendar_texts([locale])[locale].split("\n") for locale in ("en", "de"))
    assert (lines[0], lines[6], lines[7], lines[18]) == ("Monday", "Sunday", "January", "December")
    dates = {"en": "Thursday, February 5, 2026", "de": "Donnerstag, 5. Februar 2026"}
    hold_to_record({"en": lines[19], "de": german[19]}, dates, {"babel": "2.18.0"})


@pytest.mark.parametrize("row", table("tokenizers"), ids=lambda row: row["tokenizer"])
def test_the_calendars_whose_tokens_were_counted_are_those_of_babel(row):
    assert row["calendar_tokens"].keys() == row["calendar_sha256"].keys()
    hold_to_record(fingerprints(calendar_texts()), row["calendar_sha256"], row["recorded_with"])


def test_a_text_is_the_recorded_one_to_the_letter_or_not_at_all():
    recorded = fingerprints({"de": "Montag", "fr": "lundi", "it": "lunedì"})
    assert same_texts({"xx": "lundi", "fr": "lundi", "de": "montag"}, recorded) == ["fr"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Montag é", "Latin"),
        ("вторник", "Cyrillic"),
        ("الأحد", "Arabic"),
        ("सोमवार", "Brahmic"),
        ("วันจันทร์", "Brahmic"),
        ("月曜日", "Han, Kana, Hangul"),
        ("월요일", "Han, Kana, Hangul"),
        ("ሰኞ", "other"),
        ("2026. abc Вторник", "Cyrillic"),
        ("12:30", "other"),
        ("", "other"),
    ],
)
def test_the_script_is_that_of_most_letters(text, expected):
    assert script(text) == expected


def test_every_group_of_scripts_has_a_language():
    assert {script(text) for text in calendar_texts().values()} == set(SCRIPTS)


def test_languages_have_their_english_names():
    assert [language_name(locale) for locale in ("de", "sr_Latn", "am")] == ["German", "Serbian (Latin)", "Amharic"]
    with pytest.raises(ValueError, match="'no such' is no locale of CLDR"):
        language_name("no such")


def test_names_tell_locales_apart():
    names = [language_name(locale) for locale in calendar_texts()]
    assert len(set(names)) == len(names)
