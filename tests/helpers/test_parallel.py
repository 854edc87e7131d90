"""The same twenty lines in more than 230 languages, each with its script and its English name."""

import pytest

from helpers.data.parallel import CALENDAR, SCRIPTS, calendar_texts, language_name, script


def test_the_calendar_is_complete_in_more_than_two_hundred_and_thirty_languages():
    texts = calendar_texts()
    assert len({locale.split("_")[0] for locale in texts}) > 230
    assert all(len(text.split("\n")) == len(CALENDAR) == 20 for text in texts.values())
    assert all(line.strip() for text in texts.values() for line in text.split("\n"))


def test_lines_stand_in_the_order_of_the_week_and_the_year():
    lines = calendar_texts(["en"])["en"].split("\n")
    assert (lines[0], lines[6], lines[7], lines[18]) == ("Monday", "Sunday", "January", "December")
    assert lines[19] == "Thursday, February 5, 2026"
    assert calendar_texts(["de"])["de"].split("\n")[19] == "Donnerstag, 5. Februar 2026"


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
