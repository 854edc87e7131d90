"""MoonViT, Kimi K2.5's vision tower: patches of pixels in, cells of 2 x 2 patches out, and the projector behind it.

As in Qwen3.5 a learned grid and a rotation tell the place of a patch; here the grid is stretched with a smoother curve,
and columns and rows take the rotary pairs in turn. Patches stand row after row and are gathered into cells at the end.
The published tower also reads video chunks, with a vector for the time that is zero for an image: that is not here.
Built in lesson `forms_and_pdfs`.
Source: Kimi Team, "Kimi-VL Technical Report", 2025 (arXiv 2504.07491), section 2.1; transformers'
``Kimi_K25VisionModel``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.config_words import flattened
from helpers.layers.rope import angles, frequencies, rotate_neighbours
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor
from helpers.vision.encoder import Block, check_heads, resampled
from helpers.vision.images import in_cells, places, unpack

EPSILON = 1e-5


@dataclass(frozen=True)
class Config:
    """The sizes of the tower, those of Kimi K2.5 unless given. The published names stand in CONFIG_NAMES."""

    width: int = 1152
    num_blocks: int = 27
    num_heads: int = 16
    mlp_width: int = 4304
    patch_side: int = 14  # pixels
    merge: int = 2  # a cell is merge x merge patches
    grid_height: int = 64  # vectors of the learned grid; transformers 5.23 reads it right only where it is square
    grid_width: int = 64
    rope_theta: float = 1e4

    def __post_init__(self):
        check_heads(self.width, self.num_heads)


CONFIG_NAMES = {  # ours -> those of vision_config in config.json
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "patch_side": "patch_size",
    "merge": "merge_kernel_size",
    "grid_height": "pos_emb_height",
    "grid_width": "pos_emb_width",
    "rope_theta": "rope_theta",  # inside rope_parameters
}
OLDER = {  # transformers' names -> those of the files that Moonshot AI published
    "hidden_size": "vt_hidden_size",
    "num_hidden_layers": "vt_num_hidden_layers",
    "num_attention_heads": "vt_num_attention_heads",
    "intermediate_size": "vt_intermediate_size",
    "pos_emb_height": "init_pos_emb_height",
    "pos_emb_width": "init_pos_emb_width",
}

# What vision_config may say of the features that are not built here. "default" is an older word for "axial".
ONLY = {
    "hidden_act": ("gelu_pytorch_tanh",),
    "rope_type": ("axial", "default"),
    "partial_rotary_factor": (1.0,),
    "pos_emb_type": ("divided_fixed",),
    "merge_type": ("sd2_tpool",),
    "mm_projector_type": ("patchmerger",),
}

# Ours -> the published checkpoint's, after its prefix; {n} is the block.
NAMES = {
    "patch.weight": "patch_embed.proj.weight",
    "patch.bias": "patch_embed.proj.bias",
    "positions": "patch_embed.pos_emb.weight",
    **{
        f"blocks.{{n}}.{ours}.{kind}": f"encoder.blocks.{{n}}.{theirs}.{kind}"
        for kind in ("weight", "bias")
        for ours, theirs in {
            "attention_norm": "norm0",
            "attention.qkv": "wqkv",
            "attention.output": "wo",
            "mlp_norm": "norm1",
            "mlp.up": "mlp.fc0",
            "mlp.down": "mlp.fc1",
        }.items()
    },
    "norm.weight": "encoder.final_layernorm.weight",
    "norm.bias": "encoder.final_layernorm.bias",
}


def from_hf(published: dict) -> Config:
    """Read config.json's ``vision_config``; a size that it leaves out is Kimi K2.5's.

    ValueError where a feature is asked that is not here.
    """
    older = {new: published[old] for new, old in OLDER.items() if old in published}
    flat = {**older, **flattened(published)}
    for name, allowed in ONLY.items():
        if flat.get(name, allowed[0]) not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ValueError(f"vision_config has {name}={flat[name]!r}; this tower has only {wanted}")
    sides = set(flat.pop("merge_kernel_size", None) or (2, 2))
    if len(sides) != 1:
        raise ValueError(f"vision_config has merge_kernel_size={sorted(sides)}; cells are square here")
    flat["merge_kernel_size"] = sides.pop()
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items() if flat.get(name) is not None})


class MoonViT(nn.Module):
    """A processor's images in, the patches of each cell out, side by side."""

    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        self.patch = nn.Conv2d(3, c.width, c.patch_side, stride=c.patch_side)
        self.positions = nn.Parameter(torch.zeros(c.grid_height, c.grid_width, c.width))
        sizes = (c.width, c.num_heads, c.mlp_width, EPSILON)
        self.blocks = nn.ModuleList(Block(*sizes, rotate=rotate_neighbours) for _ in range(c.num_blocks))
        self.norm = nn.LayerNorm(c.width, eps=EPSILON)

    def unpack(
        self, images: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "patches 3 side side"], list[tuple[int, int]]]:
        """Pixels, a square a patch, and the grid of each image. ValueError where the two do not fit."""
        return unpack(images, (3, self.config.patch_side, self.config.patch_side), self.config.merge)

    def cells(self, images: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """Height and width of each image in cells, one token each. Raises ValueError as ``unpack``."""
        return [(height // self.config.merge, width // self.config.merge) for height, width in self.unpack(images)[1]]

    def forward(self, images: Mapping[str, Tensor]) -> Float[Tensor, "cells members D"]:
        """The cells of all images, one image after another, each row after row. Raises ValueError as ``unpack``."""
        pixels, grids = self.unpack(images)
        x = self.embed(pixels, grids)
        rotary, sizes = (
            self.rotary(grids, x.device, at_least_float32(x.dtype)),
            [height * width for height, width in grids],
        )
        for block in self.blocks:
            x = block(x, rotary, sizes)
        return self.gather(self.norm(x), grids)

    def embed(
        self, pixels: Float[Tensor, "patches 3 side side"], grids: list[tuple[int, int]]
    ) -> Float[Tensor, "patches D"]:
        """Patches as vectors, with the learned grid stretched over each image."""
        where = [resampled(self.positions, *grid, mode="bicubic", corners=False).flatten(0, 1) for grid in grids]
        return self.patch(pixels.to(self.positions.dtype)).flatten(1) + torch.cat(where)

    def rotary(
        self, grids: list[tuple[int, int]], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines: of two neighbouring pairs the first turns by the column, the second by the row."""
        where = torch.cat([places(*grid, device=device).flatten(0, 1) for grid in grids]).flip(1)
        half = self.config.width // self.config.num_heads // 2
        cos, sin = angles(where, frequencies(half, self.config.rope_theta, device), dtype)
        return cos.transpose(1, 2).flatten(1), sin.transpose(1, 2).flatten(1)

    def gather(self, x: Float[Tensor, "patches D"], grids: list[tuple[int, int]]) -> Float[Tensor, "cells members D"]:
        """Row after row becomes cell after cell."""
        images = x.split([height * width for height, width in grids])
        cells = [in_cells(one.unflatten(0, grid), self.config.merge) for one, grid in zip(images, grids, strict=True)]
        return torch.cat(cells).unflatten(0, (-1, self.config.merge**2))


class Projector(nn.Module):
    """The patches of a cell become one vector as wide as the language model's. Built in lesson `forms_and_pdfs`."""

    def __init__(self, width: int, members: int, out_width: int, epsilon: float = EPSILON):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.up = nn.Linear(members * width, members * width)
        self.down = nn.Linear(members * width, out_width)

    def forward(self, cells: Float[Tensor, "cells members D"]) -> Float[Tensor, "cells out"]:
        return self.down(functional.gelu(self.up(self.norm(cells).flatten(1))))
