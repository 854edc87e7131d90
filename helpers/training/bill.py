"""The bill of a training run: operations, hours of a chip, dollars, energy, each from the one before it.

    parameters and tokens -> FLOP -> GPU-hours at a share of the chip's peak -> USD and kWh

Every function takes one step of this chain or goes one back, so that a published bill can be entered at any place.
"""

from dataclasses import dataclass

from helpers.facts import table


@dataclass(frozen=True)
class PublishedRun:
    """What a lab states of one training run; a missing figure is None. The rows stand in facts/training_runs.toml."""

    model: str
    tokens: float
    active: float  # parameters at work on one token
    hours: dict[str, float] | None  # GPU-hours by stage
    usd_per_hour: float | None
    flops_per_token: float | None  # forward and backward, as the lab states them
    chip: str | None
    gpus: int | None
    watt: float | None  # of one chip, as the lab reckons
    leaves_out: str
    source: str

    @property
    def usd(self) -> dict[str, float]:
        """Dollars by stage, at the rent that the lab assumes. ValueError where it states hours or rent not."""
        if self.hours is None or self.usd_per_hour is None:
            raise ValueError(f"{self.model}: hours and rent are needed for a sum, and were not both published")
        return {stage: hours * self.usd_per_hour for stage, hours in self.hours.items()}


def published_run(model: str) -> PublishedRun:
    """What is published of the training of ``model``; ValueError naming the models there are.

    Built in lesson `training_bill`.
    """
    rows = {row["model"]: row for row in table("training_runs")}
    if model not in rows:
        raise ValueError(f"no published training of {model!r}; there is {', '.join(rows)}")
    row = rows[model]
    optional = ("hours", "usd_per_hour", "flops_per_token", "chip", "gpus", "watt")
    return PublishedRun(
        model=model,
        tokens=row["tokens"],
        active=row["active_billion"] * 1e9,
        leaves_out=row["leaves_out"],
        source=row["source"],
        **{name: row.get(name) for name in optional},
    )


def six_nd(parameters: float, tokens: float) -> float:
    """FLOP of a training by the rule of six: 2 forward and 4 backward for each parameter and token.

    ``parameters`` are those that a token is multiplied with: without an embedding that is only looked up, and of the
    experts only those that are chosen. Attention between tokens is not in it. Source: Kaplan and others, "Scaling
    Laws for Neural Language Models", 2020, section 2.1. Built in lesson `training_bill`.
    """
    return 6.0 * parameters * tokens


def attention_flops(
    layers: int, heads: int, key_width: int, value_width: int, length: int, causal: bool = False
) -> float:
    """Forward FLOP per token of scores and weighted values, which no parameter has a part in; three times it in
    training.

    A token meets all ``length`` keys where the masked half is computed too, and ``length`` / 2 on average where it is
    skipped (``causal``). Built in lesson `training_bill`.
    """
    return layers * heads * 2.0 * (key_width + value_width) * length * (0.5 if causal else 1.0)


def utilisation(flops: float, gpu_hours: float, peak_tflops: float) -> float:
    """The share of the chips' peak that a run used: model FLOP utilisation, 0 to 1.

    Source: Chowdhery and others, "PaLM", 2022, section 4.1. ValueError unless all three are positive.
    Built in lesson `training_bill`.
    """
    _positive(flops=flops, gpu_hours=gpu_hours, peak_tflops=peak_tflops)
    return flops / (gpu_hours * 3600 * peak_tflops * 1e12)


def gpu_hours(flops: float, peak_tflops: float, share: float) -> float:
    """Hours of one chip for so many FLOP at ``share`` of its peak. ValueError for a share that is not in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"a share of the peak is above 0 and at most 1, got {share}")
    _positive(flops=flops, peak_tflops=peak_tflops)
    return flops / (peak_tflops * 1e12 * share * 3600)


def affordable_flops(usd: float, usd_per_hour: float, peak_tflops: float, share: float) -> float:
    """FLOP that a sum of money buys."""
    _positive(usd=usd, usd_per_hour=usd_per_hour, peak_tflops=peak_tflops, share=share)
    return usd / usd_per_hour * 3600 * peak_tflops * 1e12 * share


def energy_kwh(hours: float, watt: float, overhead: float) -> float:
    """Energy of so many GPU-hours. ``overhead`` is the power usage effectiveness: what the building takes in for each
    unit that reaches the chips, 1 or more. An estimate from assumptions, never a measurement."""
    if overhead < 1:
        raise ValueError(f"a building takes in at least what its chips use: overhead is 1 or more, got {overhead}")
    return hours * watt / 1000 * overhead


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
