"""Checks of lesson `mla`: bytes kept, an absorbed step, a break-even, a layout, a rank."""

import torch

from course.exercise.exercise import Exercise, Wrong, attempt, predict, returned, reveal
from helpers.compare import randn
from helpers.layers.mla import absorbed, absorbing_pays
from helpers.layers.rope import angles, frequencies, rotate, rotate_neighbours
from helpers.measure import count_flops

__all__ = ["absorb", "even", "kept", "layout", "predict", "rank", "reveal"]


def _whole_number(got) -> int:
    if isinstance(got, bool) or not isinstance(got, (int, torch.Tensor)) or int(got) != got:
        raise Wrong(f"a whole number is expected, and this is {got!r}")
    return int(got)


# The warm-up: bytes of a latent cache.


def _check_kept(answer):
    for layers, heads, latent, rotary, tokens in [(61, 128, 512, 64, 1000), (3, 5, 7, 2, 11), (1, 2, 8, 4, 1)]:
        got, right = returned(answer, layers, heads, latent, rotary, tokens), layers * (latent + rotary) * tokens * 2
        if got == right:
            continue
        mistakes = {
            right * heads: "that keeps a latent for every head; one serves them all",
            right * 2: "twice too many: the latent is key and value at once",
            right // 2: "half of it: a number in bf16 takes 2 bytes",
            layers * latent * tokens * 2: "the RoPE key is missing: it is kept beside the latent",
            layers * (latent + heads * rotary) * tokens * 2: "one RoPE key serves all heads",
            (latent + rotary) * tokens * 2: "that is one layer, and every layer keeps its own",
        }
        raise Wrong(mistakes.get(got, f"{right:,} bytes for {layers} layers and {tokens} tokens, not {got!r}"))
    return f"DeepSeek-V3: {61 * 576 * 2 / 1e3:.1f} kB per token"


# Core: absorb, with positions.

_HEADS, _KEY, _VALUE, _LATENT, _ROTARY, _TOKENS = 3, 6, 5, 16, 4, 200


def _arguments(tokens: int, seed: int) -> tuple[torch.Tensor, ...]:
    return (
        randn(_HEADS, _KEY, seed=seed),
        randn(_HEADS, _ROTARY, seed=seed + 1),
        randn(tokens, _LATENT, seed=seed + 2),
        randn(tokens, _ROTARY, seed=seed + 3),
        randn(_HEADS, _KEY, _LATENT, seed=seed + 4) / 4,
        randn(_HEADS, _VALUE, _LATENT, seed=seed + 5) / 4,
    )


def _found(query, q_rope, latent, k_rope, w_uk, w_uv, scale=(_KEY + _ROTARY) ** -0.5):
    mask = torch.ones(1, 1, len(latent), dtype=torch.bool)
    batched = query[None, None], q_rope[None, None], latent[None], k_rope[None]
    return absorbed(*batched, w_uk, w_uv, mask, scale)[0, 0]


def _check_absorb(answer):
    for tokens, seed in [(1, 0), (7, 10), (_TOKENS, 20)]:
        given = _arguments(tokens, seed)
        got = returned(answer, *given)
        if not isinstance(got, torch.Tensor) or tuple(got.shape) != (_HEADS, _VALUE):
            shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
            raise Wrong(f"a tensor [H, V] = {(_HEADS, _VALUE)} is expected, and this is {shape}")
        if tokens > 1:
            _compare_step(got, given)
    return f"{_count_step(answer)} FLOP for {_TOKENS} tokens, and no key was made"


def _compare_step(got: torch.Tensor, given: tuple) -> None:
    right = _found(*given)
    if torch.allclose(got, right, atol=1e-5):
        return
    query, q_rope, *rest = given
    mistakes = {
        "the rotary part is missing from the scores: content alone does not know the place": _found(
            query, 0 * q_rope, *rest
        ),
        "the scores are not scaled": _found(*given, scale=1.0),
        "the scale is 1 / sqrt(K + R): that many products make a score": _found(*given, scale=_KEY**-0.5),
        "the scale is of the head's K + R numbers, not of the latent's": _found(*given, scale=_LATENT**-0.5),
    }
    for sentence, wrong in mistakes.items():
        if torch.allclose(got, wrong, atol=1e-5):
            raise Wrong(sentence)
    raise Wrong(f"the largest difference is {(got - right).abs().max():.2g}")


def _count_step(answer) -> int:
    """FLOP of one step; raises Wrong where keys or values were made."""
    spent = sum(
        attempt(lambda: count_flops(lambda: answer(*_arguments(_TOKENS, 30)))).values()
    )  # counted in its thread
    carried, pairs = 2 * _HEADS * _LATENT * (_KEY + _VALUE), 2 * _HEADS * _TOKENS * (2 * _LATENT + _ROTARY)
    value_made = 2 * _HEADS * _TOKENS * _LATENT * _VALUE
    if spent > 1.2 * (carried + pairs + value_made):
        raise Wrong(f"right, and expanded: {spent:,} FLOP, where absorbing takes {carried + pairs:,}; make no key")
    if spent > 1.2 * (carried + pairs):
        raise Wrong(f"half absorbed: {spent:,} FLOP instead of {carried + pairs:,}; is a key or a value made a token?")
    return spent


# Core: the break-even.


def _check_even(answer):
    for keys, latent, key, value in [
        (10**6, 512, 128, 128),
        (2048, 256, 64, 64),
        (100, 64, 16, 24),
        (1, 512, 192, 256),
    ]:
        got = _whole_number(returned(answer, keys, latent, key, value))
        matrix, more = latent * (key + value), 2 * latent - key - value
        right = (keys * matrix - 1) // (matrix + keys * more)
        assert absorbing_pays(right, keys, latent, key, value) or right == 0
        if got == right:
            continue
        mistakes = {
            right + 1: "one too many: at that number absorbing is not cheaper any more",
            right - 1: "one too few",
            keys: "that is the number of kept tokens: the pairs cost absorbing more than expanding, so count them too",
            matrix // more: "that is the limit of a cache without end; a short one pays back sooner",
            keys * matrix // (matrix + keys * 2 * latent): "expanding pays for the pairs too: K + V each",
        }
        raise Wrong(mistakes.get(got, f"with {keys} kept tokens, C {latent}, K {key}, V {value}: {right}, not {got}"))
    return "DeepSeek-V3's widths and a million tokens: up to 170 queries at once"


# Core: one layout out of the other.


def _check_layout(answer):
    for width in (4, 8, 14, 64):
        got = returned(answer, width)
        order = got.tolist() if isinstance(got, torch.Tensor) else got
        if not isinstance(order, (list, tuple)) or sorted(order) != list(range(width)):
            raise Wrong(f"for {width} coordinates each place from 0 to {width - 1} stands once; this is {order!r}")
        order = list(order)
        if _scores(order, width) < 1e-4:
            continue
        halves = [*range(0, width, 2), *range(1, width, 2)]
        back = [halves.index(n) for n in range(width)]
        if order == list(range(width)):
            raise Wrong("nothing moved: the pairs (i, i + R/2) are then other pairs than (2i, 2i + 1)")
        if order == back:
            raise Wrong("that is the way back, from Qwen's layout to DeepSeek's")
        if order[: width // 2] == halves[width // 2 :]:
            raise Wrong("second before first: each pair is turned the wrong way round")
        raise Wrong(
            f"for {width} coordinates the scores differ: new place i and new place i + R/2 must be old 2i, 2i + 1"
        )
    return "four widths, the same scores at every distance"


def _scores(order: list[int], width: int) -> float:
    """The largest difference between DeepSeek's scores and Qwen's, after the change of order."""
    query, key = randn(1, 9, 1, width, seed=1), randn(1, 9, 1, width, seed=2)
    turn = angles(torch.arange(9)[None], frequencies(width, 1e4))
    wanted = torch.einsum("bthr,bshr->ts", rotate_neighbours(query, *turn), rotate_neighbours(key, *turn))
    ours = torch.einsum("bthr,bshr->ts", rotate(query[..., order], *turn), rotate(key[..., order], *turn))
    return (ours - wanted).abs().max().item()


# The stretch: the smallest rank.


def _check_rank(answer):
    made = randn(12, 3, seed=3) @ randn(3, 9, seed=4)
    steps = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0, 1.0]))
    cases = [(steps, bound) for bound in (0.9, 0.7, 0.26, 0.4, 0.1, 1.0)]
    cases += [(randn(10, 7, seed=5), 0.5), (randn(6, 20, seed=6), 0.3), (made, 1e-3)]
    for matrix, bound in cases:
        got = _whole_number(returned(answer, matrix.clone(), bound))
        sizes = torch.linalg.svdvals(matrix.double())
        right = _by_size(sizes.square(), bound**2)
        if got == right:
            continue
        where = f"for a matrix {tuple(matrix.shape)} with the largest sizes {[round(s, 2) for s in sizes[:3].tolist()]}"
        mistakes = {
            right + 1: "one more than needed",
            right - 1: "one too few: more than the bound is lost",
            _by_size(sizes.square(), bound): "the squares give the square of the error: compare with bound ** 2",
            _by_size(sizes, bound): "errors of directions add up as squares, not as they are",
            int((sizes > bound * sizes[0]).sum()): "each size was compared with the largest; what is cut adds up",
        }
        raise Wrong(f"{mistakes.get(got, 'not the smallest')}: {where} and a bound of {bound} it is {right}, not {got}")
    return "nine matrices, tall and wide"


def _by_size(sizes: torch.Tensor, bound: float) -> int:
    """The smallest count of leading ``sizes`` whose rest is at most ``bound`` of their sum."""
    rest = [sizes[r:].sum().item() for r in range(len(sizes) + 1)]
    return next(r for r, left in enumerate(rest) if left <= bound * rest[0])


kept = Exercise(
    "kept",
    lesson="mla",
    check=_check_kept,
    hints=[
        "Each layer keeps, for each token, one latent and one RoPE key. How many heads read them does not matter.",
        "layers x (latent + turned) x tokens numbers, 2 bytes each.",
    ],
    minutes=4,
    difficulty=1,
)
absorb = Exercise(
    "absorb",
    lesson="mla",
    check=_check_absorb,
    hints=[
        "Begin as in step 2: einsum('hk,hkc->hc') carries the query to the latents; its scores are carried @ latent.T.",
        "Add q_rope @ k_rope.T before the softmax, and divide the sum by the root of K + R.",
        "Mix the latents with the weights, and only then use w_uv: einsum('hc,hvc->hv').",
    ],
    minutes=10,
    difficulty=2,
)
even = Exercise(
    "even",
    lesson="mla",
    check=_check_even,
    hints=[
        "Write both sums for T queries: T M + T S 2C < S M + T S (K + V), with M = C (K + V). Solve for T.",
        "T < S M / (M + S (2C - K - V)). The largest whole T below x is (numerator - 1) // denominator.",
    ],
    minutes=8,
    difficulty=2,
)
layout = Exercise(
    "layout",
    lesson="mla",
    check=_check_layout,
    hints=[
        "Take R = 4. DeepSeek's pairs are (0, 1) and (2, 3); Qwen's rotation pairs new places (0, 2) and (1, 3).",
        "So new 0 and 2 must be old 0 and 1, new 1 and 3 old 2 and 3: first all even places, then all odd ones.",
    ],
    minutes=8,
    difficulty=2,
)
rank = Exercise(
    "rank",
    lesson="mla",
    check=_check_rank,
    hints=[
        "torch.linalg.svdvals gives the sizes, largest first. Rank r loses the squares from r on, added up.",
        "Count the ranks 0, 1, ... whose lost share is still above bound ** 2 of all squares.",
    ],
    minutes=8,
    difficulty=3,
)
