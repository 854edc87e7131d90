"""The first line of every lesson after its parameters: what nobody knows is refused here, and not ten cells later."""

import os

import torch

from course.running.results import SCALES
from helpers.checkpoints.hub import HUB_ID, resolve
from helpers.device import pick


def begin(scale: str, checkpoint: str | os.PathLike, device: str | torch.device, seed: int) -> torch.device:
    """Seed torch, and give back the device that a lesson runs on.

    Raises ValueError, one line with what is allowed, for a parameter that no lesson knows. Nothing is downloaded: the
    id of a model on the hub is looked up where a lesson opens it.
    """
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"scale {scale!r} is unknown: use {', '.join(SCALES)}")
    _check_checkpoint(checkpoint)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r} is not a whole number from 0 to 2**63 - 1")
    chosen = pick(str(device))
    torch.manual_seed(seed)
    return chosen


def _check_checkpoint(checkpoint) -> None:
    if not isinstance(checkpoint, str | os.PathLike):
        raise ValueError(f"checkpoint {checkpoint!r} is unknown: use zoo, zoo:NAME, a folder or a hub id (OWNER/NAME)")
    if not HUB_ID.fullmatch(os.fspath(checkpoint)):
        resolve(checkpoint)
