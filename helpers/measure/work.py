"""How much there is to do: FLOP and bytes, counted on paper before any clock runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What a piece of code must do: floating-point operations, and bytes to and from memory."""

    flops: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.bytes * times)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP per byte: the one number that says which ceiling matters."""
        return self.flops / self.bytes


def matmul_work(
    batch: int, inputs: int, outputs: int, weight_bits: float = 32, activation_bits: float | None = None
) -> Work:
    """The product of activations [batch, inputs] with weights [inputs, outputs].

    A multiplication and an addition per weight and row: 2 · batch · inputs · outputs FLOP. The bytes are the fewest
    possible, each input read once and each output written once. Activations are as wide as the weights unless
    `activation_bits` says otherwise; a quantised layer has 4-bit weights and 16-bit activations. Built in lesson
    `roofline`.
    """
    if min(batch, inputs, outputs) < 1 or weight_bits <= 0:
        raise ValueError(f"batch {batch}, inputs {inputs}, outputs {outputs}, bits {weight_bits}: all must be positive")
    weights, activations = inputs * outputs, batch * (inputs + outputs)
    bits = weights * weight_bits + activations * (activation_bits or weight_bits)
    return Work(flops=2.0 * batch * weights, bytes=bits / 8)


def weights_work(numbers: int, held_bytes: float, tokens: int = 1, passes: int = 1) -> Work:
    """The weights of a layer or a model: ``numbers`` of them used once per token, all ``held_bytes`` read once per
    pass.

    A multiplication and an addition for each: 2 · numbers · tokens FLOP. A prompt is one pass, each new token another.
    Activations, caches and attention over the text are left out.
    """
    return Work(flops=2 * numbers * tokens, bytes=held_bytes * passes)
