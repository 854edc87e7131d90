"""What a model that learned Python can do, measured on files that no training saw, and on what it writes."""

import ast
import hashlib
import lzma
import platform

from tokenizers import Tokenizer
from torch import nn

from helpers.data import Corpus, python_corpus
from helpers.generate import generate
from helpers.training.train import bits_per_byte
from helpers.zoo.follow import Made
from helpers.zoo.tokenizer import END, token_row

PROMPT = "def"  # without a blank: " name" is one token, and a lone blank before a name is never read in training
TEMPERATURE = 0.6
SAMPLES = 64
NEW_TOKENS = 128

LENGTH = 256  # tokens of a window, in training too


def of_python(made: Made) -> dict:
    """Bits per byte of held-out files, and what share of the functions that it writes Python's parser takes."""
    model, tokenizer, corpus = made.model, made.tokenizer, python_corpus()
    out = held_out(model, tokenizer, corpus, LENGTH)
    written = samples(model, tokenizer)
    can = f"writes headers of functions that Python's parser takes, {written['share_with_header']:.0%} of the time"
    return {
        "can": can,
        "loss": {"value": out["bits_per_byte"], "what": "bits per byte of held-out Python"},
        "corpus": _corpus_facts(corpus, tokenizer),
        "held_out": out,
        "sample": written,
    }


def samples(model: nn.Module, tokenizer: Tokenizer, seed: int = 0) -> dict:
    """Functions that the model begins and goes on with, and how many of them are Python."""
    texts = sample(model, tokenizer, PROMPT, SAMPLES, NEW_TOKENS, TEMPERATURE, seed)
    return {
        "prompt": PROMPT,
        "temperature": TEMPERATURE,
        "new_tokens": NEW_TOKENS,
        "count": SAMPLES,
        "seed": seed,
        "share_with_header": sum(map(has_header, texts)) / SAMPLES,
        "share_that_parses": sum(map(parses, texts)) / SAMPLES,
        "first": texts[0].rstrip(),
        "first_that_parses": next((first_function(text) for text in texts if parses(text)), "# none did").rstrip(),
    }


def held_out(model: nn.Module, tokenizer: Tokenizer, corpus: Corpus, length: int) -> dict:
    """Bits per byte of every held-out file and of all together; beside them what ``xz -9`` makes of each file alone."""
    files, texts = {}, {name: text for name, text in corpus.held_out.items() if text}
    for name, text in texts.items():
        files[name] = {
            "bytes": len(text.encode()),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bits_per_byte": bits_per_byte(model, tokenizer, text, length),
            "xz_bits_per_byte": 8 * len(lzma.compress(text.encode(), preset=9)) / len(text.encode()),
        }
    size = sum(file["bytes"] for file in files.values())

    def mean(key: str) -> float:
        return sum(file[key] * file["bytes"] for file in files.values()) / size

    return {
        "bits_per_byte": mean("bits_per_byte"),
        "xz_bits_per_byte": mean("xz_bits_per_byte"),
        "bits_per_byte_at_double_length": bits_per_byte(model, tokenizer, list(texts.values()), 2 * length),
        "length": length,
        "bytes": size,
        "files": files,
    }


def sample(
    model: nn.Module, tokenizer: Tokenizer, prompt: str, count: int, new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """``count`` continuations of ``prompt``, begun as a document begins; each ends at ``<|endoftext|>``."""
    end = tokenizer.token_to_id(END)
    start = token_row([prompt], tokenizer).long().repeat(count, 1).to(next(model.parameters()).device)
    rows = generate(model.eval(), start, new_tokens, temperature, seed, eos=end)
    return [tokenizer.decode(row).split(END)[0] for row in rows[:, 1:].tolist()]


def first_function(text: str) -> str:
    """``text`` up to the next line that begins at the margin; where there is none, without its last line, cut short."""
    lines = text.splitlines(keepends=True)
    for n, line in enumerate(lines[1:], start=1):
        if line.strip() and not line[0].isspace():
            return "".join(lines[:n]).rstrip() + "\n"
    return "".join(lines[:-1]).rstrip() + "\n"


def parses(text: str) -> bool:
    """Whether the first function of ``text`` is whole and Python's own parser takes it."""
    try:
        return bool(ast.parse(first_function(text)).body)
    except (SyntaxError, ValueError):  # ValueError: a null byte
        return False


def has_header(text: str) -> bool:
    """Whether the first line of ``text`` is a whole header of a function, such as ``def f(x, y=1):``."""
    try:
        return bool(ast.parse(text.partition("\n")[0] + " pass").body)
    except (SyntaxError, ValueError):
        return False


def _corpus_facts(corpus: Corpus, tokenizer: Tokenizer) -> dict:
    size = sum(len(text.encode()) for text in corpus.train.values())
    tokens = len(token_row(corpus.train.values(), tokenizer))
    return {
        "text": f"standard library of {platform.python_implementation()} {platform.python_version()}",
        "train_files": len(corpus.train),
        "train_bytes": size,
        "train_tokens": tokens,
        "bytes_per_token": size / tokens,
        "held_out_files": len(corpus.held_out),
    }
