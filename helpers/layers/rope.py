"""Rotary positions: turn each pair of coordinates by an angle that grows with the position.

The dot product of a query and a key, each turned by its position, depends on the distance of their positions only.
Source: Su et al., "RoFormer", 2021, section 3.2, which pairs neighbours (2i, 2i + 1), as DeepSeek and GLM-5 do.
Hugging Face checkpoints of Llama's and Qwen's families pair (i, i + K/2), the half-split layout.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor

Rotation = Callable[[Tensor, Tensor, Tensor], Tensor]  # which coordinates are a pair: below


def frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> Float[Tensor, " halfK"]:
    """Radians a position for each of the ``head_dim / 2`` pairs: ``theta ** (-2i / head_dim)``, from 1 down.

    Raises ValueError where ``head_dim`` is odd. Built in lesson `attention`.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions turn pairs of coordinates: head_dim must be even, not {head_dim}")
    # From integers, so that a default device or dtype cannot change the numbers.
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)


def angles(
    positions: Int[Tensor, "*B T"], radians: Float[Tensor, " halfK"], dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "*B T halfK"], Float[Tensor, "*B T halfK"]]:
    """The cosine and the sine of each position's angles, computed in float32 at least and then rounded.

    Built in lesson `attention`.
    """
    turned = positions.to(at_least_float32(dtype))[..., None] * radians
    return turned.cos().to(dtype), turned.sin().to(dtype)


def rotate(
    x: Float[Tensor, "B T H K"], cos: Float[Tensor, "*B T halfK"], sin: Float[Tensor, "*B T halfK"]
) -> Float[Tensor, "B T H K"]:
    """Turn the pairs (i, i + K/2) of every head by the angle of its position. Built in lesson `attention`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]  # one angle for all heads
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate_neighbours(
    x: Float[Tensor, "B T H K"], cos: Float[Tensor, "*B T halfK"], sin: Float[Tensor, "*B T halfK"]
) -> Float[Tensor, "B T H K"]:
    """Turn the pairs (2i, 2i + 1), the interleaved layout of the DeepSeek and GLM-5 families.

    The same angles on another pairing: a checkpoint trained with one gives fluent nonsense with the other.
    Built in lesson `mla`.
    """
    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def rotate_first(
    x: Float[Tensor, "B T H K"], cos: Float[Tensor, "*B T halfR"], sin: Float[Tensor, "*B T halfR"]
) -> Float[Tensor, "B T H K"]:
    """Turn the first R coordinates of every head and leave the others as they are: positions for a part of the head.

    What is left unturned matches at any distance. Source: Black et al., "GPT-NeoX-20B", 2022 (arXiv 2204.06745); in
    Qwen3.5 R is a quarter of K. Built in lesson `attention`.
    """
    turned, kept = x.tensor_split([2 * cos.shape[-1]], dim=-1)
    return torch.cat([rotate(turned, cos, sin), kept], dim=-1)


def rotate_last(
    x: Float[Tensor, "B T H K"], cos: Float[Tensor, "*B T halfR"], sin: Float[Tensor, "*B T halfR"]
) -> Float[Tensor, "B T H K"]:
    """Turn the last R coordinates of every head, in neighbouring pairs; with ``-sin`` they are turned back.

    Source: DeepSeek-AI, "DeepSeek-V4", 2026, section 2.3. Built in lesson `what_came_next`.
    """
    kept, turned = x.tensor_split([x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    return torch.cat([kept, rotate_neighbours(turned, cos, sin)], dim=-1)


def axis_of(count: int, sections: tuple[int, int, int]) -> Int[Tensor, " count"]:
    """Which axis each of ``count`` frequencies turns by: 0 time, 1 height, 2 width, taken in turn (M-RoPE).

    ``sections`` says how many frequencies each axis has; when height and width have theirs, the rest is time's.
    Turns and not blocks, so that each axis has fast and slow ones. Source: Bai et al., "Qwen3-VL Technical Report",
    2025 (arXiv 2511.21631: interleaved MRoPE); transformers' ``Qwen3_5TextRotaryEmbedding``. Built in lesson
    `forms_and_pdfs`.
    """
    axis, turn = torch.arange(count) % 3, torch.arange(count) // 3
    return axis.where(turn < torch.tensor(sections)[axis], 0)


def angles_of_axes(
    positions: Int[Tensor, "3 B T"],
    radians: Float[Tensor, " halfR"],
    sections: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "B T halfR"], Float[Tensor, "B T halfR"]]:
    """``angles`` where a token has a time, a height and a width, and each frequency belongs to one of the three.

    For text all three are the position, and the result is that of ``angles``. Built in lesson `forms_and_pdfs`.
    """
    axis = axis_of(len(radians), sections).to(positions.device)
    turned = positions[axis].movedim(0, -1).to(at_least_float32(dtype)) * radians
    return turned.cos().to(dtype), turned.sin().to(dtype)


@dataclass(frozen=True)
class Yarn:
    """How a model that was trained on ``context`` positions reads ``factor`` times as many.

    Pairs that turn often within the context tell near positions apart, and stay as they are. Pairs that never come
    round have not been seen at larger angles, and are slowed by the whole factor. Between them is a ramp. More keys
    flatten the softmax, so scores grow by the square of ``magnitude``.
    Source: Peng et al., "YaRN", 2023, definitions 2 and 3. Built in lesson `mla`.
    """

    factor: float
    context: int  # original_max_position_embeddings
    fast: float = 32.0  # beta_fast: turns within the context above which a pair stays as it is
    slow: float = 1.0  # beta_slow: turns below which it is slowed by the whole factor
    mscale: float = 0.0  # mscale
    strength: float = 0.0  # mscale_all_dim
    given: float | None = None  # attention_factor

    @classmethod
    def from_hf(cls, rope: dict) -> "Yarn | None":
        """Out of config.json's ``rope_parameters`` (once ``rope_scaling``); None where no YaRN is asked.

        Raises ValueError where a setting is missing that has no default, or one is asked that is not built here.
        """
        if rope.get("rope_type", rope.get("type", "default")) != "yarn":
            return None
        if missing := [name for name in ("factor", "original_max_position_embeddings") if not rope.get(name)]:
            raise ValueError(f"config.json asks for YaRN and lacks {', '.join(missing)}")
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError(
                f"config.json has partial_rotary_factor={rope['partial_rotary_factor']!r}; YaRN has only 1.0 here"
            )
        if not rope.get("truncate", True):
            raise ValueError("config.json has truncate=False; YaRN has only True here")
        turns = (rope.get("beta_fast") or 32.0, rope.get("beta_slow") or 1.0)
        strengths = (rope.get("mscale") or 0.0, rope.get("mscale_all_dim") or 0.0)
        return cls(
            rope["factor"], rope["original_max_position_embeddings"], *turns, *strengths, rope.get("attention_factor")
        )

    def to_hf(self) -> dict:
        """As config.json has it, without theta."""
        rope = {"rope_type": "yarn", "factor": self.factor, "original_max_position_embeddings": self.context}
        rope |= {"beta_fast": self.fast, "beta_slow": self.slow}
        strengths = {"mscale": self.mscale, "mscale_all_dim": self.strength, "attention_factor": self.given}
        return rope | {name: value for name, value in strengths.items() if value}

    @property
    def on_angles(self) -> float:
        """What cosines and sines are multiplied by: the growth of the rotary part beyond that of the whole score."""
        if self.given is not None:
            return self.given
        if self.mscale and self.strength:
            return self.magnitude(self.mscale) / self.magnitude(self.strength)
        return self.magnitude(1.0)

    @property
    def on_scores(self) -> float:
        """What attention scores are multiplied by. DeepSeek-V3: 1.874, and angles by 1."""
        return self.magnitude(self.strength) ** 2 if self.strength else 1.0

    def magnitude(self, strength: float) -> float:
        """``0.1 * strength * ln(factor) + 1``, and 1 where nothing is stretched."""
        return 0.1 * strength * math.log(self.factor) + 1 if self.factor > 1 else 1.0


def stretched(radians: Float[Tensor, " halfK"], theta: float, yarn: Yarn) -> Float[Tensor, " halfK"]:
    """YaRN's frequencies from the plain ones: from unchanged at the fast pairs to divided by ``factor`` at the slow.

    Source: Peng et al., "YaRN", 2023, definition 2. Built in lesson `mla`.
    """
    width = 2 * len(radians)
    first = max(math.floor(_pair_that_turns(yarn.fast, width, theta, yarn.context)), 0)
    last = min(math.ceil(_pair_that_turns(yarn.slow, width, theta, yarn.context)), width - 1)
    pair = torch.arange(len(radians), device=radians.device)
    slowed = ((pair - first) / (last - first or 1e-3)).clamp(0, 1)
    return radians * (1 - slowed) + radians / yarn.factor * slowed


def angles_of_yarn(
    positions: Int[Tensor, "*B T"],
    radians: Float[Tensor, " halfK"],
    theta: float,
    yarn: Yarn | None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "*B T halfK"], Float[Tensor, "*B T halfK"]]:
    """``angles`` of the stretched frequencies; the plain ones where ``yarn`` is None. Built in lesson `mla`."""
    if yarn is None:
        return angles(positions, radians, dtype)
    cos, sin = angles(positions, stretched(radians, theta, yarn), at_least_float32(dtype))
    return (cos * yarn.on_angles).to(dtype), (sin * yarn.on_angles).to(dtype)


def _pair_that_turns(turns: float, width: int, theta: float, context: int) -> float:
    """The pair i, as a real number, with ``context * theta ** (-2i / width) = turns * 2 pi``."""
    return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
