"""Known wrong answers of lesson `kernels`, each with a piece of the message that it must get."""

from helpers.kernels.launch import kernel, tl, triton

INT4 = """
def answer(codes, scale, x, out, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    real = at < width
    pair = tl.load(codes + row * (width // 2) + at // 2, mask=real, other=0)
    code = (pair >> (4 * (at % 2))) & 15
    share = tl.load(scale + row * (width // 32) + at // 32, mask=real, other=0.0)
    number = tl.load(x + at, mask=real, other=0.0)
    tl.store(out + row, tl.sum((code.to(tl.float32) - 8) * share * number, axis=0))
"""

TILES = """
def answer(query, latents, chosen, out, k, width, scale, K: tl.constexpr, C: tl.constexpr):
    head, c = tl.program_id(0), tl.arange(0, C)
    asked = tl.load(query + head * width + c, mask=c < width, other=0.0)
    best, total, mixed = float("-inf"), 0.0, tl.zeros((C,), tl.float32)
    for start in range(0, k, K):
        slot = start + tl.arange(0, K)
        at = tl.load(chosen + slot, mask=slot < k, other=-1)
        real = at >= 0
        rows = tl.load(latents + at[:, None] * width + c, mask=real[:, None] & (c < width), other=0.0)
        scores = tl.where(real, tl.sum(rows * asked[None, :], axis=1) * scale, float("-inf"))
        new = tl.maximum(best, tl.max(scores, axis=0))
        safe = tl.where(new == float("-inf"), 0.0, new)
        share, shrink = tl.exp(scores - safe), tl.exp(best - safe)
        total = total * shrink + tl.sum(share, axis=0)
        mixed = mixed * shrink + tl.sum(rows * share[:, None], axis=0)
        best = new
    tl.store(out + head * width + c, mixed / total, mask=c < width)
"""


def _changed(source: str, *changes: tuple[str, str]):
    """The right kernel with something replaced."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    scope = {"tl": tl}
    exec(source, scope)
    return kernel(scope["answer"])


def _until(falls=lambda bits, ridge: ridge * bits / 16, gone=lambda bits, ridge: ridge):
    return lambda bits, tflops, tb_s: (falls(bits, tflops / tb_s), gone(bits, tflops / tb_s))


def _plain(codes, scale, x, out, width, BLOCK):
    return None


WRONG = {
    "floor": [
        (lambda flops, moved, tflops, tb_s: flops / (tflops * 1e12) + moved / (tb_s * 1e12), "not their sum"),
        (lambda flops, moved, tflops, tb_s: min(flops / (tflops * 1e12), moved / (tb_s * 1e12)), "the smaller"),
        (lambda flops, moved, tflops, tb_s: max(flops / tflops, moved / tb_s), "1e12 operations"),
        (lambda flops, moved, tflops, tb_s: flops / (tflops * 1e12), "the bytes are missing"),
        (lambda flops, moved, tflops, tb_s: moved / (tb_s * 1e12), "the operations are missing"),
        (lambda flops, moved, tflops, tb_s: "memory", "one number is expected"),
        (lambda flops, moved, tflops, tb_s: 7.0, "is not the larger"),
    ],
    "int4": [
        (_changed(INT4, ("4 * (at % 2)", "4 * (1 - at % 2)")), "in the lower half"),
        (_changed(INT4, (" - 8)", ")")), "subtract 8"),
        (_changed(INT4, (" - 8)", " - 7)")), "is another one"),
        (_changed(INT4, ("+ at // 32", "+ at // 1024")), "every 32 columns"),
        (_changed(INT4, ("* share ", "")), "the scales are missing"),
        (_changed(INT4, ("at < width", "at < BLOCK")), "behind the row's end"),
        (_changed(INT4, ("tl.store(out + row, ", "row + (")), "is `out` stored"),
        (_plain, "@kernel above the function"),
        (7, "a kernel is expected"),
    ],
    "until": [
        (_until(falls=lambda bits, ridge: ridge, gone=lambda bits, ridge: ridge * bits / 16), "the order is"),
        (_until(falls=lambda bits, ridge: ridge * 16 / bits), "not 16 / bits"),
        (_until(falls=lambda bits, ridge: ridge * bits), "bits and bytes"),
        (_until(lambda bits, ridge: ridge * bits / 8, lambda bits, ridge: 2 * ridge), "1 FLOP per byte"),
        (_until(lambda bits, ridge: ridge * bits / 32, lambda bits, ridge: ridge / 2), "a product and a sum"),
        (_until(lambda bits, ridge: 16 / ridge / bits, lambda bits, ridge: 1 / ridge), "the reverse"),
        (_until(falls=lambda bits, ridge: 3.0), "are not it"),
        (lambda bits, tflops, tb_s: 7.0, "two numbers of tokens"),
    ],
    "tiles": [
        (_changed(TILES, (" * scale, float", ", float")), "the scale is missing"),
        (_changed(TILES, ("range(0, k, K)", "range(0, K, K)")), "only the first tile"),
        (_changed(TILES, ("real = at >= 0", "real, at = slot < k, tl.maximum(at, 0)")), "counts as token 0"),
        (_changed(TILES, ("mixed / total", "mixed")), "divide by the total"),
        (_changed(TILES, ("tl.exp(best - safe)", "1.0")), "shrink by exp(best - new)"),
        (_changed(TILES, ('tl.where(new == float("-inf"), 0.0, new)', "new")), "exp(-inf - -inf)"),
    ],
}

if triton is None:  # no kernel runs, so only what is none can be told
    WRONG |= {key: [(one, "a kernel is expected") for one in (7, "row", [1])] for key in ("int4", "tiles")}
