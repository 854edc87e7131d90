"""Facts in 200 languages: many, in a fixed order, each with one question; what is asked is what was read."""

from collections import Counter
from dataclasses import replace

import num2words
import pytest
from babel import Locale
from support.drift import hold_to_record

from helpers.data import answer_bytes, ask, cldr_facts, fact_line, language_corpus, number_words
from helpers.data.languages import KINDS, NO_NAMES, Fact, locales, split_facts
from helpers.zoo.tokenizer import train_tokenizer

BABEL, NUM2WORDS = {"babel": "2.18.0"}, {"num2words": "0.5.14"}  # whose words stand below


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return cldr_facts()


def test_more_than_two_hundred_languages_really_come_out(facts):
    by_language = Counter(fact.locale.split("_")[0] for fact in facts)
    assert len(by_language) >= 200
    assert min(by_language.values()) >= 50
    assert {"de", "zh", "sw", "yo", "ar", "hi", "th", "am", "ka"} <= set(by_language)


def test_there_are_more_than_a_hundred_thousand_facts_of_every_kind(facts):
    by_kind = Counter(fact.kind for fact in facts)
    assert set(by_kind) == set(KINDS)
    assert len(facts) > 100_000
    assert min(by_kind.values()) > 500


@pytest.mark.parametrize(
    "line",
    [
        "de|FR=Frankreich",
        "fr|de=allemand",
        "sw|m1=Januari",
        "ja|d1=月曜日",
        "de|d7=Sonntag",
        "es|u.kilometer=kilómetros",
        "de|n.decimal=1.234.567,891",
        "de|t.long=5. Februar 2026",
        "zh|t.long=2026年2月5日",
        "sr_Latn|FR=Francuska",
    ],
)
def test_facts_that_a_person_knows_are_there(facts, line):
    question, answer = line.split("=")
    hold_to_record({ask(fact): fact.answer for fact in facts if ask(fact) == question}, {question: answer}, BABEL)


def test_a_question_has_one_answer_and_a_line_can_be_taken_apart(facts):
    assert len({ask(fact) for fact in facts}) == len(facts)
    for fact in facts:
        locale, rest = fact_line(fact).split("|", 1)
        key, answer = rest.split("=", 1)
        assert (locale, key, answer) == (fact.locale, fact.key, fact.answer)
        assert answer.strip() == answer != ""
        assert "\n" not in answer


def test_names_are_those_that_babel_gives(facts):
    chosen = [fact for fact in facts if fact.locale in ("de", "ar", "zh_Hant") and fact.kind == "territory"]
    assert len(chosen) > 700
    assert all(Locale.parse(fact.locale).territories[fact.key] == fact.answer for fact in chosen)
    assert all(Locale("en").territories[fact.key] == fact.english for fact in chosen)


def test_regions_and_copies_of_another_locale_are_left_out(facts):
    assert all(Locale.parse(locale).territory is None for locale in locales())
    assert len({"nb", "no"} & set(locales())) == 1
    assert not {"en_GB", "zh_Hans"} & set(locales())
    hold_to_record({"ht": "ht" in locales()}, {"ht": False}, BABEL)  # CLDR gives Haitian the French of Haiti


def test_no_two_locales_agree_in_nine_facts_of_ten(facts):
    said = {locale: set() for locale in locales()}
    for fact in facts:
        said[fact.locale].add((fact.key, fact.answer))
    pairs = [(a, b) for a in ("en", "nn", "nb", "guz", "zh", "yue", "ur") for b in said if a != b and a in said]
    assert all(len(said[a] & said[b]) < 0.9 * min(len(said[a]), len(said[b])) for a, b in pairs)


def test_what_is_no_name_is_no_fact(facts):
    assert not NO_NAMES & {fact.key for fact in facts}
    months = [fact for fact in facts if fact.kind == "month"]
    assert not [fact for fact in months if fact.answer.startswith("M0")]  # CLDR's root says M01 where nobody says more


def test_kinds_and_locales_are_chosen_in_the_one_order(facts):
    chosen = cldr_facts(["weekday", "month"], ["fr", "de"])
    assert chosen == [fact for fact in facts if fact.locale in ("de", "fr") and fact.kind in ("month", "weekday")]
    assert len(chosen) == 38


def test_an_unknown_kind_or_locale_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"territory, language, month, .* no colour"):
        cldr_facts(["colour"])
    with pytest.raises(ValueError, match="too few facts for en_GB, xx; locales"):
        cldr_facts(locales=["xx", "de", "en_GB"])


def test_the_corpus_has_a_document_a_locale_and_every_fact_once(facts):
    corpus = language_corpus(facts)
    assert list(corpus.train) == locales()
    lines = [line for text in [*corpus.train.values(), *corpus.held_out.values()] for line in text.splitlines()]
    assert sorted(lines) == sorted(map(fact_line, facts))


def test_one_fact_in_twenty_is_held_out_by_its_question(facts):
    train, out = split_facts(facts)
    assert 0.045 < len(out) / len(facts) < 0.055
    again, _ = split_facts([replace(fact, answer="x") for fact in reversed(facts)])
    assert {ask(fact) for fact in again} == {ask(fact) for fact in train}


def test_lines_of_a_document_do_not_stand_in_the_order_of_the_table(facts):
    german = [fact for fact in facts if fact.locale == "de"]
    lines = language_corpus(german, held_out=0).train["de"].splitlines()
    assert lines != [fact_line(fact) for fact in german]
    assert lines == language_corpus(german[::-1], held_out=0).train["de"].splitlines()


def test_answers_are_weighed_in_bytes():
    assert answer_bytes(cldr_facts(["weekday"], ["ja"])) == 7 * 3 * 3  # three signs of three bytes


def test_numbers_are_spelled_in_forty_languages_and_more():
    facts = number_words(range(100))
    assert len({fact.locale for fact in facts}) >= 40
    assert len(facts) == 100 * len({fact.locale for fact in facts})
    assert "de|42=zweiundvierzig" in map(fact_line, facts)
    assert all(fact.answer == fact.answer.strip() != "" for fact in facts)
    assert not [fact for fact in facts if any(sign in "0123456789" for sign in fact.answer)]


def test_regional_numbers_are_there_when_asked_for():
    french = {fact.locale: fact.answer for fact in number_words([90], ["fr", "fr_BE"])}
    assert french == {"fr": "quatre-vingt-dix", "fr_BE": "nonante"}


def test_every_converter_spells_what_is_promised():
    codes = [*num2words.CONVERTER_CLASSES]
    hold_to_record({code: _spells(code, [0, 999]) for code in codes}, dict.fromkeys(codes, True), NUM2WORDS)


def test_a_number_or_language_that_is_not_spelled_is_refused():
    with pytest.raises(ValueError, match=r"does not spell xx; it spells .*\bam, "):
        number_words([1], ["xx", "de"])
    with pytest.raises(ValueError, match="-1 is not spelled"):
        number_words([1, -1])


def test_a_number_that_num2words_cannot_spell_is_named(monkeypatch):
    def not_in_amharic(number, lang):
        if lang == "am":
            raise NotImplementedError(lang)
        return str(number)

    monkeypatch.setattr(num2words, "num2words", not_in_amharic)
    with pytest.raises(ValueError, match="no words for 1105 in am"):
        number_words([1105], ["am"])


def test_the_tokens_of_a_question_are_the_first_of_its_line(facts):
    """So a model that has read lines has read the question as it will be asked; with ``=`` in it, it would not be."""
    some = facts[::97]
    tokenizer = train_tokenizer((fact_line(fact) + "\n" for fact in some), 600)
    for fact in some:
        question, line = (tokenizer.encode("\n" + text).ids for text in (ask(fact), fact_line(fact) + "\n"))
        assert line[: len(question)] == question, fact
    glued = [fact for fact in some if not _starts(tokenizer, ask(fact) + "=", fact_line(fact))]
    assert len(glued) > len(some) / 10


def _spells(code: str, numbers: list[int]) -> bool:
    try:
        return len(number_words(numbers, [code])) == len(numbers)
    except ValueError:
        return False


def _starts(tokenizer, question: str, line: str) -> bool:
    question, line = tokenizer.encode(question).ids, tokenizer.encode(line).ids
    return line[: len(question)] == question
