"""LLM.int8(): the few columns of a layer's input that hold huge numbers are multiplied as they are, the rest in INT8.

One number of 60 beside numbers of 1 takes the scale of its whole token, and the others are left with two or three
codes. In language models such numbers stand in the same few columns for every token, so those can be taken out.
"""

from jaxtyping import Int8

from helpers.quant.formats.integers import vectorwise
from helpers.shapes import Float, Int, Tensor

THRESHOLD = 6.0


def outlier_columns(x: Float[Tensor, "T I"], threshold: float = THRESHOLD) -> Int[Tensor, " outliers"]:
    """The columns in which some token has a number of ``threshold`` or more in size. Built in lesson `formats`."""
    return (x.abs() >= threshold).any(dim=0).nonzero().flatten()


def split(
    x: Float[Tensor, "T I"], threshold: float = THRESHOLD
) -> tuple[Int8[Tensor, "T I"], Float[Tensor, " T"], Int[Tensor, " outliers"]]:
    """Codes with the outlier columns at 0, a scale for each token that outliers have no part in, and those columns.

    Source: Dettmers et al., "LLM.int8()", 2022, section 3.2. Built in lesson `formats`.
    """
    columns = outlier_columns(x, threshold)
    codes, scale = vectorwise(x.masked_fill(x.abs() >= threshold, 0))
    codes[:, columns] = 0
    return codes, scale, columns


def mixed_product(
    x: Float[Tensor, "T I"], codes: Int8[Tensor, "O I"], scale: Float[Tensor, " O"], threshold: float = THRESHOLD
) -> Float[Tensor, "T O"]:
    """x times the transpose of an INT8 weight: whole numbers for most columns, floating point for the outliers.

    Built in lesson `formats`.
    """
    small, steps, columns = split(x, threshold)
    whole = (small.int() @ codes.int().T).float() * steps[:, None] * scale
    return whole + x[:, columns].float() @ (codes[:, columns].float() * scale[:, None]).T
