"""Known wrong answers of lesson `formats`, each with a piece of the message that it must get."""

import math

import torch


def _bits(
    count=lambda rows, columns, down, across: -(-rows // down) * -(-columns // across), times=lambda bits, n: bits
):
    def answer(rows, columns, code_bits, scale_bits, block_rows, block_columns):
        scales = count(rows, columns, block_rows, block_columns)
        return times(code_bits + scale_bits * scales / (rows * columns), rows * columns)

    return answer


def _int8(size=torch.abs, most=127, turn=torch.round, where=lambda groups: groups.amax(-1)):
    def answer(weight, group):
        groups = weight.unflatten(1, (-1, group))
        scales = where(size(groups)) / most
        divisor = torch.where(scales == 0, 1.0, scales)
        return turn(groups / divisor[..., None]).flatten(1).clamp(-128, 127).to(torch.int8), scales

    return answer


def _as_integers(weight, group):
    codes, scales = _int8()(weight, group)
    return codes.int(), scales


def _nan_inside(weight, group):
    groups = weight.unflatten(1, (-1, group))
    scales = groups.abs().amax(-1) / 127
    return (groups / scales[..., None]).round().flatten(1).to(torch.int8), scales


def _mirrored(inverse, outermost):
    up = inverse(torch.linspace(0.5, outermost, 9, dtype=torch.float64))
    return torch.cat([-up[2:].flip(0), up]) / up.max()


def _values(below=7, above=8, largest=True, order=lambda values: values):
    def answer(inverse, outermost):
        side = lambda count: inverse(torch.linspace(outermost, 0.5, count + 1, dtype=torch.float64)[:-1])  # noqa: E731
        up = side(above)
        values = torch.cat([-side(below), torch.zeros(1, dtype=torch.float64), up.flip(0)])
        return order(values / up.max() if largest else values)

    return answer


def _straight_through(inverse, outermost):
    values = inverse(torch.linspace(1 - outermost, outermost, 16, dtype=torch.float64))
    return values / values.max()


def _even_steps(inverse, outermost):
    half = torch.arange(8, dtype=torch.float64)
    return torch.cat([-(half[1:].flip(0)) / 7, torch.zeros(1), (half + 1) / 8])


def _pack(offset=8, swap=False, halves=False, shift=4):
    def answer(codes):
        positive = (codes + offset) & 15
        half = codes.shape[1] // 2
        first, second = (positive[:, :half], positive[:, half:]) if halves else (positive[:, ::2], positive[:, 1::2])
        first, second = (second, first) if swap else (first, second)
        return (first + (second << shift)).to(torch.uint8)

    return answer


def _power(size=torch.abs, of=lambda most: most.double().frexp().exponent - 3, zero=True):
    def answer(groups):
        most = size(groups).amax(dim=1).clamp(min=0)
        power = (of(most) + 127).clamp(0, 254).nan_to_num()
        return (torch.where(most == 0, 0, power) if zero else power).to(torch.uint8)

    return answer


def _e4m3(turn=torch.round, lowest=-6, fraction=3, most=448.0):
    def answer(x):
        step = ((x.abs().frexp().exponent - 1).clamp(min=lowest) - fraction).float().exp2()
        return (turn(x / step) * step).clamp(-most, most)

    return answer


def _scale(of, compare=True):
    def answer(back):
        scale = of(back.abs().max())
        same = torch.equal((back / scale).to(torch.float8_e4m3fn).float() * scale, back)
        return float(scale) if same or not compare else None

    return answer


WRONG = {
    "bits": [
        (_bits(lambda *shape: 0), "the scales are missing"),
        (_bits(lambda rows, columns, down, across: rows * columns / (down * across)), "needs a whole scale"),
        (_bits(lambda rows, columns, down, across: (rows // down) * (columns // across)), "lost"),
        (
            _bits(lambda rows, columns, down, across: math.ceil(rows * columns / (down * across))),
            "do not run on into the next row",
        ),
        (_bits(times=lambda bits, n: bits * n), "divide by its weights"),
        (_bits(times=lambda bits, n: bits / 8), "a byte has eight bits"),
        (lambda *given: "4.5", "one number is expected"),
    ],
    "int8": [
        (_int8(size=lambda groups: groups), "the largest in SIZE"),
        (_int8(most=128), "becomes 127, not 128"),
        (_int8(turn=torch.trunc), "cut off towards zero"),
        (_int8(where=lambda groups: groups.amax((1, 2), keepdim=True)[..., 0].expand(groups.shape[:2])), "per row"),
        (_int8(where=lambda groups: groups.amax().expand(groups.shape[:2])), "whole matrix"),
        (_as_integers, "codes: the type is torch.int8"),
        (lambda weight, group: _int8()(weight, group)[0], "a pair (codes, scales)"),
        (_nan_inside, "0/0"),
    ],
    "values": [
        (_values(largest=False), "divide by the largest"),
        (_values(order=lambda values: values.flip(0)), "the smallest stands first"),
        (_values(order=lambda values: -values.flip(0)), "the other way round"),
        (_straight_through, "miss zero"),
        (_even_steps, "CHANCES"),
        (_mirrored, "mirrored"),
        (_values(below=7, above=7), "sixteen values is expected"),
    ],
    "pack": [
        (_pack(swap=True), "LOWER half"),
        (_pack(offset=0), "add 8 first"),
        (_pack(offset=7), "8 is added, not 7"),
        (_pack(halves=True), "NEIGHBOURS"),
        (_pack(shift=0), "moved up by four bits"),
        (lambda codes: codes, "has the shape"),
    ],
    "power": [
        (_power(of=lambda most: (most / 6).log2().ceil()), "cuts nothing off"),
        (_power(of=lambda most: most.double().frexp().exponent - 1), "2 is taken off"),
        (_power(of=lambda most: most.double().frexp().exponent - 2), "floor(log2) is e - 1"),
        (_power(of=lambda most: most.double().log2().round() - 2), "not to the nearest"),
        (_power(size=lambda groups: groups), "in SIZE"),
        (_power(of=lambda most: (most / 6).double().log2().floor()), "no division by 6"),
        (lambda groups: (groups.abs().amax(dim=1).frexp().exponent - 3).to(torch.uint8), "127 is added"),
        (_power(zero=False), "a group of zeros has the byte 0"),
    ],
    "e4m3": [
        (_e4m3(most=1e30), "above 448 becomes 448"),
        (_e4m3(lowest=-200), "stop shrinking"),
        (_e4m3(turn=torch.trunc), "cut off"),
        (_e4m3(turn=lambda steps: torch.floor(steps + 0.5)), "halfway goes to the even"),
        (_e4m3(fraction=2), "not 4"),
        (_e4m3(fraction=4), "not 16"),
    ],
    "lossless": [
        (_scale(lambda most: most / 448), "found none"),
        (_scale(lambda most: most / 448, compare=False), "a power of two"),
        (_scale(lambda most: (most / 448).log2().floor().exp2(), compare=False), "E4M3 ends at 448"),
        (_scale(lambda most: (most / 448).log2().ceil().exp2(), compare=False), "answer None"),
        (_scale(lambda most: most.log2().ceil().exp2() * 8, compare=False), "the smallest numbers are lost"),
    ],
}
