"""Qwen3.5's vision tower: patches of pixels in, one vector for each cell of 2 x 2 patches out.

The place of a patch is told twice: by a learned grid that is stretched over the image, and by rotating half of each
head by the row and half by the column. Built in lesson `forms_and_pdfs`.
Source: Bai et al., "Qwen3-VL Technical Report", 2025 (arXiv 2511.21631), without its DeepStack; transformers'
``Qwen3_5VisionModel``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.config_words import by_one_name, flattened
from helpers.layers.rope import angles, frequencies, rotate
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor
from helpers.vision.encoder import Block, check_heads, resampled
from helpers.vision.images import in_cells, places, unpack

EPSILON = 1e-6


@dataclass(frozen=True)
class Config:
    """The sizes of the tower. The published names stand in CONFIG_NAMES."""

    width: int
    num_blocks: int
    num_heads: int
    mlp_width: int
    out_width: int  # of the language model
    patch_side: int = 16  # pixels
    frames: int = 2  # a still image is given to the convolution twice, as two frames
    channels: int = 3
    merge: int = 2  # a cell is merge x merge patches
    num_positions: int = 2304  # vectors of the learned grid, 48 x 48
    rope_theta: float = 1e4

    def __post_init__(self):
        check_heads(self.width, self.num_heads)
        if math.isqrt(self.num_positions) ** 2 != self.num_positions:
            raise ValueError(f"num_position_embeddings is {self.num_positions}; a square grid needs a square number")


CONFIG_NAMES = {  # ours -> those of vision_config in config.json
    "width": "hidden_size",
    "num_blocks": "depth",
    "num_heads": "num_heads",
    "mlp_width": "intermediate_size",
    "out_width": "out_hidden_size",
    "patch_side": "patch_size",
    "frames": "temporal_patch_size",
    "channels": "in_channels",
    "merge": "spatial_merge_size",
    "num_positions": "num_position_embeddings",
    "rope_theta": "rope_theta",  # inside rope_parameters
}
OTHER_NAMES = {"num_attention_heads": "num_heads", "num_hidden_layers": "depth"}
MUST_HAVE = ("width", "num_blocks", "num_heads", "mlp_width", "out_width")

# What vision_config may say of the features that are not built here. "default" is an older word for "axial".
ONLY = {
    "hidden_act": ("gelu_pytorch_tanh",),
    "deepstack_visual_indexes": ([],),
    "rope_type": ("axial", "default"),
    "partial_rotary_factor": (1.0,),
}

# Ours -> the checkpoint's, after its prefix; {n} is the block.
NAMES = {
    "patch.weight": "patch_embed.proj.weight",
    "patch.bias": "patch_embed.proj.bias",
    "positions.weight": "pos_embed.weight",
    **{
        f"blocks.{{n}}.{ours}.{kind}": f"blocks.{{n}}.{theirs}.{kind}"
        for kind in ("weight", "bias")
        for ours, theirs in {
            "attention_norm": "norm1",
            "attention.qkv": "attn.qkv",
            "attention.output": "attn.proj",
            "mlp_norm": "norm2",
            "mlp.up": "mlp.linear_fc1",
            "mlp.down": "mlp.linear_fc2",
        }.items()
    },
    **{
        f"merger.{ours}.{kind}": f"merger.{theirs}.{kind}"
        for kind in ("weight", "bias")
        for ours, theirs in {"norm": "norm", "up": "linear_fc1", "down": "linear_fc2"}.items()
    },
}


def from_hf(published: dict) -> Config:
    """Read config.json's ``vision_config``.

    ValueError where a size is missing or a feature is asked that is not here.
    """
    flat = by_one_name(flattened(published), OTHER_NAMES)
    for name, allowed in ONLY.items():
        if flat.get(name, allowed[0]) not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ValueError(f"vision_config has {name}={flat[name]!r}; this tower has only {wanted}")
    if missing := [CONFIG_NAMES[ours] for ours in MUST_HAVE if flat.get(CONFIG_NAMES[ours]) is None]:
        raise ValueError(f"vision_config lacks {', '.join(missing)}")
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items() if flat.get(name) is not None})


class Merger(nn.Module):
    """Four neighbouring patches become one vector, as wide as the language model's: four times fewer tokens to read."""

    def __init__(self, config: Config):
        super().__init__()
        self.wide = config.width * config.merge**2
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.up = nn.Linear(self.wide, self.wide)
        self.down = nn.Linear(self.wide, config.out_width)

    def forward(self, x: Float[Tensor, "patches D"]) -> Float[Tensor, "cells out"]:
        return self.down(functional.gelu(self.up(self.norm(x).reshape(-1, self.wide))))


class Tower(nn.Module):
    """A processor's images in, one vector per cell out; the patches of a cell are neighbours from the start."""

    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        kernel = (c.frames, c.patch_side, c.patch_side)
        self.patch = nn.Conv3d(c.channels, c.width, kernel, stride=kernel)
        self.positions = nn.Embedding(c.num_positions, c.width)
        sizes = (c.width, c.num_heads, c.mlp_width, EPSILON)
        self.blocks = nn.ModuleList(Block(*sizes, rotate=rotate) for _ in range(c.num_blocks))
        self.merger = Merger(c)

    def unpack(self, images: Mapping[str, Tensor]) -> tuple[Float[Tensor, "patches pixels"], list[tuple[int, int]]]:
        """Pixels, a row a patch, and the grid of each image. ValueError where the two do not fit."""
        pixels = self.config.channels * self.config.frames * self.config.patch_side**2
        return unpack(images, (pixels,), self.config.merge)

    def cells(self, images: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """Height and width of each image in cells, one token each. Raises ValueError as ``unpack``."""
        return [(height // self.config.merge, width // self.config.merge) for height, width in self.unpack(images)[1]]

    def forward(self, images: Mapping[str, Tensor]) -> Float[Tensor, "cells out"]:
        """The vectors of all images, one after another, each row after row. Raises ValueError as ``unpack``."""
        pixels, grids = self.unpack(images)
        x = self.embed(pixels, grids)
        rotary, sizes = (
            self.rotary(grids, x.device, at_least_float32(x.dtype)),
            [height * width for height, width in grids],
        )
        for block in self.blocks:
            x = block(x, rotary, sizes)
        return self.merger(x)

    def embed(
        self, pixels: Float[Tensor, "patches pixels"], grids: list[tuple[int, int]]
    ) -> Float[Tensor, "patches D"]:
        """Patches as vectors, with the learned grid stretched over each image."""
        side, merge = math.isqrt(self.config.num_positions), self.config.merge
        table = self.positions.weight.unflatten(0, (side, side))
        where = [in_cells(resampled(table, *grid, mode="bilinear", corners=True), merge) for grid in grids]
        voxels = pixels.to(table.dtype).unflatten(1, (self.config.channels, *self.patch.kernel_size))
        return self.patch(voxels).flatten(1) + torch.cat(where)

    def rotary(
        self, grids: list[tuple[int, int]], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines: the first half of a head's pairs turns by the row of a patch, the second by its column."""
        where = torch.cat([in_cells(places(*grid, device=device), self.config.merge) for grid in grids])
        half = self.config.width // self.config.num_heads // 2
        cos, sin = angles(where, frequencies(half, self.config.rope_theta, device), dtype)
        return cos.flatten(1), sin.flatten(1)
