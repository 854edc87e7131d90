"""The zoo's tokenizer: Qwen's way of splitting text, with merges learned from the zoo's own corpus."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from helpers.bpe import pre_tokenizer
from helpers.shapes import Int, Tensor

END = "<|endoftext|>"


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE: ``<|endoftext|>`` as id 0, 256 bytes, the most frequent merges. Lossless on any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def token_row(documents: Iterable[str], tokenizer: Tokenizer) -> Int[Tensor, " tokens"]:
    """All documents as one row of token ids, each begun by ``<|endoftext|>``."""
    start = tokenizer.token_to_id(END)
    return torch.tensor([t for text in documents for t in (start, *tokenizer.encode(text).ids)], dtype=torch.int32)
