"""Six thousand facts to learn by heart: names of countries, months and days in fifty languages, out of CLDR."""

import random
from functools import cache

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


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact that is to be learned, about six thousand."""
    told = cldr_facts(("territory", "month", "weekday"), LOCALES)
    return tuple(fact for fact in told if fact.kind != "territory" or share(fact.key) < TERRITORIES)


def draw(rng: random.Random, left: int) -> Example:
    """A row of facts in any order; the answer is what stands behind ``=``, and the line end."""
    return Example("facts", "\n", tuple((ask(fact), f"={fact.answer}\n") for fact in rng.sample(facts(), left // 4)))


def fact_tokenizer() -> Tokenizer:
    """Merges learned from all the facts."""
    return train_tokenizer(language_corpus(facts(), held_out=0.0).train.values(), VOCABULARY)


def stream(tokenizer: Tokenizer) -> TaskBatches:
    """Rows of facts."""
    return TaskBatches(tokenizer, (Phase(10**6, ROWS, LENGTH, draw),), seed=1)
