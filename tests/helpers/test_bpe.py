"""Our byte pair encoding is the one of the ``tokenizers`` library: same ids, merges and encodings, on any text."""

import random
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from helpers.bpe import (
    BYTES,
    LETTERS,
    LETTERS_AND_MARKS,
    count_words,
    from_tokenizers,
    learn,
    merge,
    pre_tokenizer,
    split,
    to_tokenizers,
)
from helpers.checkpoints import resolve
from helpers.data import cldr_facts

AWKWARD = [
    "",
    " ",
    "\n\n \t\r\n",
    "aaaaaaaaa aaaa aaa aa a",
    "it's WE'LL don'T",
    "été ete\u0301",
    "हिन्दी ไทย አማርኛ ქართული",
    "日本語と한국어",
    "👩‍👩‍👧 \U0010ffff \x00 \x7f",
    "٣٫١٤ 1234567",
    "    def f(x):\n\treturn x  # ok\n",
    "\ufeffx\u2028y\u00a0z",
]


def random_text(draw: random.Random, length: int) -> str:
    alphabet = draw.choice(["ab", "aab \n", "abcdé ", "अआिी ्", "a1'-_ \n\t", "日本語。", "xyz👩\u200d"])
    return "".join(draw.choice(alphabet) for _ in range(length))


def library(texts: list[str], vocab_size: int, pattern: str = LETTERS) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [fact.answer for fact in cldr_facts(["territory", "month"], ["en", "hi", "th", "am", "zh"])]


@pytest.mark.parametrize("pattern", [LETTERS, LETTERS_AND_MARKS])
@pytest.mark.parametrize("vocab_size", [256, 257, 400, 1500])
def test_ids_merges_and_encodings_are_the_librarys(names, vocab_size, pattern):
    theirs = library(names, vocab_size, pattern)
    ours = learn(count_words(names, pattern), vocab_size, pattern)
    assert ours == from_tokenizers(theirs)
    assert len(ours.tokens) == theirs.get_vocab_size() == vocab_size
    for text in [*AWKWARD, *names[::50]]:
        assert ours.encode(text) == theirs.encode(text).ids, text


def test_ids_merges_and_encodings_are_the_librarys_on_random_texts():
    draw = random.Random(0)
    for _ in range(100):
        texts = [random_text(draw, draw.randint(0, 60)) for _ in range(draw.randint(1, 6))]
        vocab_size = 256 + draw.choice([0, 1, 3, 10, 100])
        theirs, ours = library(texts, vocab_size), learn(count_words(texts), vocab_size)
        assert ours == from_tokenizers(theirs), texts
        for text in [*texts, random_text(draw, 40)]:
            assert ours.encode(text) == theirs.encode(text).ids, (texts, text)


def test_the_zoos_tokenizer_encodes_the_same_through_our_code(names):
    theirs = Tokenizer.from_file(str(resolve("zoo") / "tokenizer.json"))
    ours = from_tokenizers(theirs)
    for text in [*AWKWARD, *names[::20], "def main():\n    return self.value\n" * 3]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


def test_there_and_back_through_the_library_is_the_same_tokenizer(names):
    ours = learn(count_words(names), 500)
    assert from_tokenizers(to_tokenizers(ours)) == ours


def test_nothing_is_lost_on_any_text_even_one_that_no_training_saw():
    ours, draw = learn(count_words(["low lower lowest"]), 270), random.Random(1)
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(map(chr, draw.sample(points, 30))) for _ in range(100)]
    for text in [*AWKWARD, *texts]:
        assert ours.decode(ours.encode(text)) == text
        assert "".join(split(text)) == text
        assert len(ours.encode(text)) <= len(text.encode())


def test_every_token_is_new_and_the_bytes_of_its_two_parts(names):
    ours = learn(count_words(names), 700)
    assert ours.tokens[:256] == BYTES
    assert len(set(ours.tokens)) == len(ours.tokens)
    for token, (left, right) in zip(ours.tokens[256:], ours.merges, strict=True):
        assert token == ours.tokens[left] + ours.tokens[right]


def test_each_merge_takes_a_pair_that_no_other_beats_when_all_are_counted_anew():
    words = count_words(["the theme of these theses then there"])
    ours, rows = learn(words, 280), {word: learn({}, 256).encode_word(word) for word in words}
    for number, chosen in enumerate(ours.merges, start=256):
        counts = Counter(pair for word, ids in rows.items() for pair in pairwise(ids) for _ in range(words[word]))
        assert min(counts, key=lambda pair: (-counts[pair], pair)) == chosen
        rows = {word: merge(ids, chosen, number) for word, ids in rows.items()}


def test_the_example_of_the_lesson_by_hand():
    ours = learn({"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}, 259)
    assert ours.tokens[256:] == (b"ug", b"un", b"hug")


def test_a_run_of_one_letter_is_merged_from_the_left():
    assert merge([7, 7, 7, 7, 7], (7, 7), 9) == [9, 9, 7]
    assert merge([], (7, 7), 9) == []


def test_counts_decide_and_words_that_stand_nowhere_do_not():
    ours = learn({"ab": 1, "cd": 2, "ef": 0}, 300)
    assert ours.tokens[256:] == (b"cd", b"ab")


def test_learning_stops_when_every_word_is_one_token():
    assert len(learn({"abc": 1}, 1000).tokens) == 258
    assert learn({}, 1000).tokens == BYTES


def test_the_first_merges_are_what_a_smaller_vocabulary_learns(names):
    words = count_words(names)
    assert learn(words, 400).first(50) == learn(words, 306)


def test_counted_words_have_the_tokens_of_the_text(names):
    ours, text = learn(count_words(names), 600), "\n".join(names[:500])
    assert ours.count(count_words([text])) == len(ours.encode(text))


def test_the_pattern_of_qwen3_5_keeps_vowel_signs_with_their_letters():
    word = "हिन्दी"
    assert any(unicodedata.category(sign) == "Mc" for sign in word)
    assert len(split(word, LETTERS_AND_MARKS)) == 1 < len(split(word, LETTERS))


def test_half_a_character_decodes_to_a_sign_for_it():
    ours = learn({}, 256)
    assert ours.decode(ours.encode("é")[:1]) == "\ufffd"
    assert b"".join(ours.pieces(ours.encode("é"))) == "é".encode()


def test_bad_input_is_told_what_is_allowed():
    ours = learn({"ab": 1}, 257)
    with pytest.raises(ValueError, match="vocab_size is 255; 256"):
        learn({}, 255)
    with pytest.raises(ValueError, match="'ab': -1"):
        learn({"ab": -1}, 300)
    with pytest.raises(ValueError, match="half of a surrogate pair at 1"):
        ours.encode("x\ud800")
    for wrong in (257, -1):
        with pytest.raises(ValueError, match=f"no token {wrong}; ids from 0 to 256"):
            ours.decode([wrong])
    with pytest.raises(ValueError, match="2 merges are asked for; 0 to 1 are there"):
        ours.first(2)


def test_another_kind_of_tokenizer_is_refused():
    with pytest.raises(ValueError, match="this is a WordLevel after"):
        from_tokenizers(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="this is a BPE after"):
        from_tokenizers(Tokenizer(models.BPE()))
