"""Prompts with images, and transformers' model of a folder that holds our weights by their published names."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.models.published import apart


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every number random, saved buffers too: a bias of zero would hide that it is not used."""
    generator = torch.Generator().manual_seed(0)
    middle = {"norm": 1.0, "log_rate": -3.0}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            around = next((value for part, value in middle.items() if part in name), 0.0)
            tensor.copy_(around * (tensor.dim() == 1) + 0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def in_transformers(
    model: torch.nn.Module, published: dict, published_name: Callable[[str], str], kind: type, folder: Path
) -> torch.nn.Module:
    """Written tensor by tensor as a published checkpoint is, and read by transformers, which misses nothing."""
    weights = {}
    for name, tensor in model.state_dict().items():
        for part, one in apart(published_name(name), tensor):
            weights[part] = one.contiguous().clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published), encoding="utf-8")
    eager = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": torch.float32}
    theirs, found = kind.from_pretrained(folder, output_loading_info=True, **eager)
    tied = {"lm_head.weight"} if published["tie_word_embeddings"] else set()
    assert set(found["missing_keys"]) <= tied, found
    assert not {*found["unexpected_keys"], *found["mismatched_keys"]}, found
    return theirs.eval()


def prompt(image_token: int, vocab_size: int, *parts: int | tuple[int, int]) -> torch.Tensor:
    """One row: a number is so many random words, a pair the placeholders of an image of so many cells."""
    generator = torch.Generator().manual_seed(sum(part if isinstance(part, int) else part[0] for part in parts))
    ids = []
    for part in parts:
        if isinstance(part, int):
            words = torch.randint(vocab_size - 1, (part,), generator=generator)
            ids += [int(word) + (int(word) >= image_token) for word in words]
        else:
            ids += [image_token] * (part[0] * part[1])
    return torch.tensor([ids])


def pictures(patch: tuple[int, ...], merge: int, *cells: tuple[int, int], seed: int = 3) -> dict[str, torch.Tensor]:
    """Random pixels of images of these cells, in the shape that a processor gives."""
    grid = torch.tensor([(1, height * merge, width * merge) for height, width in cells])
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(int(grid.prod(dim=1).sum()), *patch, generator=generator),
        "image_grid_thw": grid,
    }


def joined(*batches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The images of several rows as those of one call."""
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def padded(rows: list[torch.Tensor], filler: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of several lengths in one batch, padded with ``filler``, and the mask of the real tokens."""
    longest = max(row.shape[1] for row in rows)
    ids, mask = torch.full((len(rows), longest), filler), torch.zeros(len(rows), longest, dtype=torch.bool)
    for n, row in enumerate(rows):
        where = slice(longest - row.shape[1], None) if left else slice(row.shape[1])
        ids[n, where], mask[n, where] = row[0], True
    return ids, mask


def patterns(model: torch.nn.Module) -> set[str]:
    """The parameters' names with {n} for the block."""
    return {re.sub(r"\d+", "{n}", name) for name in model.state_dict()}
