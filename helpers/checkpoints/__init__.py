"""Opening a checkpoint safely, with a reader of our own, and writing one that transformers reads.

strict_json   JSON without second meanings          header        what a file says of itself, and every refusal
safetensors   one file: its tensors                 error         a refusal, one line
folder        config.json, shards and their index   hub           from a name to a folder
families      config.json -> our model
fill, write   weights into a model, and out of it
recomputed    names of tables that files may hold and nobody reads
stored        packed weights and their scales in the files, unpacked by helpers.quant
plan          what a model needs, before it is here
"""

import os

import torch
from torch import nn

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.families import empty_model, family_of
from helpers.checkpoints.folder import read_config, tensors
from helpers.checkpoints.hub import resolve
from helpers.checkpoints.load_weights import fill_model
from helpers.checkpoints.packed import Files
from helpers.checkpoints.write import save
from helpers.device import pick

WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

__all__ = ["CheckpointError", "load", "resolve", "save", "tensors"]


def load(
    folder_or_hub_id: str | os.PathLike, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> nn.Module:
    """Our model of the family that config.json names, with the checkpoint's weights as ``dtype`` on ``device``.

    ``"zoo"``, ``"zoo:NAME"``, a folder, or a hub id that is in the local cache (``resolve(id, download=True)`` fetches
    one). CheckpointError, a ValueError of one line, when anything is missing, left over, of another shape, or unsafe.

    On the CPU, weights whose dtype in the file is ``dtype`` are mapped: each is read when it is first used, and writing
    to it, as training does, never reaches the file. While the model lives its files may be replaced or deleted, but not
    overwritten in place or cut off (``helpers.checkpoints.safetensors.Tensors``). On Windows all are read at once.
    Built in lesson `open_a_model`.
    """
    if dtype not in WEIGHTS:
        raise ValueError(f"weights become {', '.join(map(str, WEIGHTS))}, not {dtype!r}")
    device, folder = pick(device), resolve(folder_or_hub_id)
    published = read_config(folder)
    family = family_of(published, folder)
    held = Files(folder, published, family.rename)
    model = empty_model(family, published, folder, held.stored)
    unused, copies = family.unused(model.config, held.stored), family.copies(model.config)
    fill_model(model, held, family.published_name, dtype, device, unused, copies)
    return model.eval()
