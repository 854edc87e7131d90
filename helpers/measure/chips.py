"""What a change of work is worth on a chip that is not here, from a datasheet's two rates.

A row of the table of facts "hardware" has ranges, where sources disagree: so is every answer a range.
"""

from helpers.measure.work import Work

Range = tuple[float, float]


def ridge(chip: dict) -> Range:
    """FLOP per byte at which memory and arithmetic take equally long."""
    (slow, fast), (narrow, wide) = chip["tflops"], chip["memory_tb_s"]
    return slow / wide, fast / narrow


def gain(before: Work, after: Work, chip: dict) -> Range:
    """How many times less the floor is after than before.

    Only the ridge matters: with arithmetic as the unit of time a floor is max(FLOP, bytes x ridge), and the quotient of
    two such floors rises or falls all the way from one end of the ridge's range to the other. Built in lesson
    `kernels`.
    """
    ends = [max(before.flops, before.bytes * r) / max(after.flops, after.bytes * r) for r in ridge(chip)]
    return min(ends), max(ends)
