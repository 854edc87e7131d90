"""One alphabet of axes, used in every signature, einsum and sentence of the course.

``Float[Tensor, "B T D"]`` reads: a floating-point tensor of batch x query positions x model width. The tests run with
jaxtyping's hook, which checks the letters; nowhere else do they cost anything.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

AXES = {
    "B": "batch",
    "T": "query positions",
    "S": "key positions",
    "D": "model width",
    "H": "query heads",
    "G": "key/value heads",
    "K": "head width",
    "V": "value width",
    "C": "latent width",
    "Q": "width of a compressed query",
    "R": "rotary part of a head",
    "E": "experts",
    "A": "experts per token",
    "F": "expert hidden width",
    "I": "inputs of a matrix",
    "O": "outputs of a matrix",
    "X": "width of whatever is stored or moved",
    "N": "blocks",
    "L": "positions per block",
}

__all__ = ["AXES", "Bool", "Float", "Int", "Tensor"]
