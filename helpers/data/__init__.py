"""Text to train on that every machine already has: Python, languages, and how it is cut into batches."""

from helpers.data.batches import Batches, batches
from helpers.data.corpus import Corpus
from helpers.data.languages import Fact, answer_bytes, ask, cldr_facts, fact_line, language_corpus, number_words
from helpers.data.python import python_corpus

__all__ = [
    "Batches",
    "Corpus",
    "Fact",
    "answer_bytes",
    "ask",
    "batches",
    "cldr_facts",
    "fact_line",
    "language_corpus",
    "number_words",
    "python_corpus",
]
