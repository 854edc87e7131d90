"""The blocks of a vision transformer: no order of reading, so every patch of an image sees every other.

Patches of all images stand in one row without padding; attention stays inside each image.
Source: Dehghani et al., "Patch n' Pack: NaViT", 2023 (arXiv 2307.06304).
"""

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.attention import attend
from helpers.layers.rope import Rotation
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor


def resampled(
    grid: Float[Tensor, "side1 side2 D"], height: int, width: int, mode: str, corners: bool
) -> Float[Tensor, "height width D"]:
    """A learned grid of positions stretched to another size, so that one table serves images of every shape.

    ``mode`` is "bilinear" or "bicubic"; ``corners``: the outermost vectors stay the outermost. Built in lesson
    `forms_and_pdfs`.
    """
    channels_first = grid.to(at_least_float32(grid.dtype)).movedim(-1, 0)[None]
    stretched = functional.interpolate(channels_first, size=(height, width), mode=mode, align_corners=corners)
    return stretched[0].movedim(0, -1).to(grid.dtype)


class Attention(nn.Module):
    """Attention of every patch to every patch of the same image. Built in lesson `forms_and_pdfs`."""

    def __init__(self, width: int, num_heads: int, rotate: Rotation):
        super().__init__()
        self.num_heads, self.rotate = num_heads, rotate
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "patches D"], rotary: tuple[Tensor, Tensor], sizes: list[int]
    ) -> Float[Tensor, "patches D"]:
        """``sizes`` says how many patches each image has."""
        query, key, value = self.qkv(x)[None].unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # 1 patches H K
        query, key = (self.rotate(part, *rotary).to(x.dtype) for part in (query, key))  # angles are float32 at least
        images = zip(*(part.split(sizes, dim=1) for part in (query, key, value)), strict=True)
        return self.output(torch.cat([self._one_image(*parts) for parts in images], dim=1)[0].flatten(1))

    def _one_image(self, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "1 patches H K"]:
        size = query.shape[1]
        return attend(query, key, value, torch.ones(1, size, size, dtype=torch.bool, device=query.device))


class MLP(nn.Module):
    """``down(gelu(up x))``, with the tanh form of gelu. Built in lesson `forms_and_pdfs`."""

    def __init__(self, width: int, mlp_width: int):
        super().__init__()
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)

    def forward(self, x: Float[Tensor, "patches D"]) -> Float[Tensor, "patches D"]:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Attention inside each image, then the feed-forward layer, each normalised first and added back."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, epsilon: float, rotate: Rotation):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.attention = Attention(width, num_heads, rotate)
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
        self.mlp = MLP(width, mlp_width)

    def forward(
        self, x: Float[Tensor, "patches D"], rotary: tuple[Tensor, Tensor], sizes: list[int]
    ) -> Float[Tensor, "patches D"]:
        x = x + self.attention(self.attention_norm(x), rotary, sizes)
        return x + self.mlp(self.mlp_norm(x))


def check_heads(width: int, num_heads: int) -> None:
    """ValueError unless each head has a whole number of rotary pairs for rows and as many for columns."""
    if num_heads < 1 or width % num_heads or width // num_heads % 4:
        raise ValueError(f"width {width} does not give {num_heads} heads whose width is a multiple of 4")
