"""Six thousand facts to learn by heart: names of countries, months and days in fifty languages, out of CLDR.

They stand in ``facts.txt``, as babel gave them when the models learned them: CLDR grows with every release, and what a
model was taught does not. ``cldr_facts_now`` draws the same from the babel that is installed.
"""

import random
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from helpers.data import Fact, ask, cldr_facts, language_corpus
from helpers.data.corpus import share
from helpers.data.tasks import Example, Phase, TaskBatches
from helpers.zoo.tokenizer import train_tokenizer

LOCALES = (  # the languages of many readers, in twenty scripts
    *("af", "am", "ar", "az", "be", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi"),
    *("fr", "ga", "gl", "gu", "he", "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "ko", "lt", "lv", "ms"),
    *("nl", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sv", "sw", "ta", "th", "tr", "uk", "ur", "vi", "zu"),
)
TERRITORIES = 0.4  # of them all, by hash: about a hundred, the same in every language
VOCABULARY = 1024
LENGTH, ROWS = 128, 16  # tokens of a row, rows of a step


RECORDED_WITH = {"babel": "2.18.0"}
FILE = Path(__file__).with_name("facts.txt")


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact that is to be learned, about six thousand, the same whatever babel is installed."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    entries = [_entry(line) for line in lines if not line.startswith("#")]
    english = {key: answer for locale, key, answer in entries if locale == "en"}
    return tuple(Fact(locale, _kind(key), key, english[key], answer) for locale, key, answer in entries)


def cldr_facts_now() -> tuple[Fact, ...]:
    """The same choice out of the CLDR of the babel that is installed, in the same order."""
    told = cldr_facts(("territory", "month", "weekday"), LOCALES)
    return tuple(fact for fact in told if fact.kind != "territory" or share(fact.key) < TERRITORIES)


def _entry(line: str) -> tuple[str, str, str]:
    """Locale, key and answer of a line such as ``de|FR=Frankreich``."""
    question, answer = line.split("=", 1)
    return (*question.split("|"), answer)


def _kind(key: str) -> str:
    """Keys of days and months are a letter and a number, those of territories two capital letters."""
    return {"m": "month", "d": "weekday"}.get(key[0], "territory")


def draw(rng: random.Random, left: int) -> Example:
    """A row of facts in any order; the answer is what stands behind ``=``, and the line end."""
    return Example("facts", "\n", tuple((ask(fact), f"={fact.answer}\n") for fact in rng.sample(facts(), left // 4)))


def fact_tokenizer() -> Tokenizer:
    """Merges learned from all the facts."""
    return train_tokenizer(language_corpus(facts(), held_out=0.0).train.values(), VOCABULARY)


def stream(tokenizer: Tokenizer) -> TaskBatches:
    """Rows of facts."""
    return TaskBatches(tokenizer, (Phase(10**6, ROWS, LENGTH, draw),), seed=1)
