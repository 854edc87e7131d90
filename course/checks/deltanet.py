"""Checks of lesson `deltanet`: one write, a chunk's corrections, capacity, the hybrid."""

from numbers import Integral

import torch

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal

__all__ = ["attention_every", "capacity", "corrections", "predict", "reveal", "write"]


def _tensor(answer, shape: tuple[int, ...], *args) -> torch.Tensor:
    """The answer for these arguments; Wrong where it is no tensor of that shape."""
    got = returned(answer, *(x.clone() for x in args))
    if not torch.is_tensor(got):
        raise Wrong(f"a tensor is expected, and this is a {type(got).__name__}")
    if tuple(got.shape) != shape:
        raise Wrong(f"a tensor of shape {shape} is expected, and this has {tuple(got.shape)}")
    return got.double()


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-6)


def _whole(answer, *args) -> int:
    got = returned(answer, *args)
    if torch.is_tensor(got) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, Integral):
        raise Wrong(f"a whole number is expected, and this is {repr(got)[:60]}")
    return int(got)


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# The warm-up: one write.


def _check_write(answer) -> str:
    generator = torch.Generator().manual_seed(8)
    for key_dim, value_dim, beta in [(2, 3, 1.0), (5, 2, 0.25), (4, 4, 0.7)]:
        state, key, value = (
            _normal(generator, key_dim, value_dim),
            _unit(_normal(generator, key_dim)),
            _normal(generator, value_dim),
        )
        got = _tensor(answer, (key_dim, value_dim), state, key, value, torch.tensor(beta, dtype=torch.float64))
        _compare_writes(got, state, key, value, beta)
    return "asked for the key, the memory now answers beta of the way from the old value to the new one"


def _compare_writes(got, state, key, value, beta) -> None:
    old = key @ state
    new = beta * (value - old)
    mistakes = [
        (
            state + beta * torch.outer(key, value),
            "that adds: what the memory already answers for the key must go first",
        ),
        (state - torch.outer(key, new), "you walk away from the new value: the sign of the correction is turned"),
        (state + torch.outer(key, value - old), "beta has no effect: it is the share of the error that is corrected"),
        (
            state + torch.outer(key, value - beta * old),
            "the new value is written whole and only the old one is weighed: beta weighs the difference of both",
        ),
        (torch.outer(key, new), "only what is written comes back: everything else in the memory is lost"),
        (state, "the memory has not changed: state + outer(key, correction)"),
    ]
    if _same(got, state + torch.outer(key, new)):
        return
    raise Wrong(next((said for wrong, said in mistakes if _same(got, wrong)), "the memory has other numbers after it"))


# Core: what each token of a chunk writes, without a loop over the state.


def _loop(key, value, beta, state) -> torch.Tensor:
    written = []
    for k, v, b in zip(key, value, beta, strict=True):
        written.append(b * (v - k @ state))
        state = state + torch.outer(k, written[-1])
    return torch.stack(written)


def _check_corrections(answer) -> str:
    generator = torch.Generator().manual_seed(80)
    for length, key_dim, value_dim in [(2, 4, 4), (7, 5, 3), (33, 8, 6), (1, 3, 2)]:
        key, value = _unit(_normal(generator, length, key_dim)), _normal(generator, length, value_dim)
        beta, state = _normal(generator, length).sigmoid(), _normal(generator, key_dim, value_dim)
        got = _tensor(answer, (length, value_dim), key, value, beta, state)
        _compare_corrections(got, key, value, beta, state)
    return "1, 2, 7 and 33 tokens: what the loop writes, from one triangular system"


def _solved(key, value, beta, state, diagonal: int = -1, weigh: bool = True) -> torch.Tensor:
    system = ((beta[:, None] if weigh else 1) * (key @ key.T)).tril(diagonal)
    eye = torch.eye(len(key), dtype=key.dtype)
    return torch.linalg.solve(eye + system, beta[:, None] * (value - key @ state))


def _compare_corrections(got, key, value, beta, state) -> None:
    if _same(got, _loop(key, value, beta, state)):
        return
    share, full = beta[:, None], torch.eye(len(key), dtype=key.dtype) + _uncut(beta, key)
    mistakes = [
        (share * (value - key @ state), "each token sees the old memory alone: what earlier tokens wrote is missing"),
        (share * value, "neither the old memory nor the earlier tokens are taken away"),
        (_loop(key, value, beta, torch.zeros_like(state)), "the state before the chunk is missing on the right side"),
        (
            _solved(key, value, beta, state, 0),
            "the diagonal counts k . k too: a token does not correct itself, tril(-1)",
        ),
        (
            torch.linalg.solve(full, share * (value - key @ state)),
            "later tokens are in the system: keep what is below the diagonal",
        ),
        (
            _solved(key, value, beta, state, weigh=False),
            "each row of the system is weighed by that token's beta, as the right side is",
        ),
        (
            _loop(key, value, torch.ones_like(beta), state),
            "beta has no effect: each token corrects that share of its error",
        ),
    ]
    raise Wrong(
        next(
            (said for wrong, said in mistakes if _same(got, wrong)), f"for {len(key)} tokens the loop writes otherwise"
        )
    )


def _uncut(beta: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """beta_i k_i . k_j everywhere off the diagonal: the system of somebody who forgot to cut it."""
    both = beta[:, None] * (key @ key.T)
    return both - torch.diag(torch.diag(both))


# Core: how many pairs a set of keys can hold.


def _check_capacity(answer) -> str:
    generator = torch.Generator().manual_seed(81)
    base = _normal(generator, 6, 16)
    cases = [
        (torch.eye(4, dtype=torch.float64), 4, "four keys at right angles: each has a channel of its own"),
        (base, 6, "six keys in general position in 16 channels are independent: one answer each, and no more"),
        (
            _normal(generator, 40, 16),
            16,
            "40 keys in 16 channels: the memory has 16 rows, so only 16 answers can be chosen freely",
        ),
        (torch.cat([base, base[:3]]), 6, "a key that comes twice is one key: the memory cannot answer it in two ways"),
        (
            torch.cat([base, base[:1] + base[1:2]]),
            6,
            "a key that is the sum of two others gets the sum of their answers: count independent keys",
        ),
        (base[:, :3], 3, "six keys of three channels: not more than three are independent"),
    ]
    for keys, right, why in cases:
        got = _whole(answer, keys.clone())
        if got != right:
            raise Wrong(f"{why}: {right}, not {got}")
    return "independent keys are what counts, and there are never more of them than channels"


# The stretch: how rarely must attention come for a model to fit?


def _bytes(layers: int, every: int, state: int, token: int, tokens: int) -> int:
    attention = layers // every
    return attention * token * tokens + (layers - attention) * state


def _check_attention_every(answer) -> str:
    cases = [
        ((40, 2_000_000, 2_048, 262_144, 10**12), "everything fits: attention in every layer"),
        ((40, 2_162_688, 2_048, 262_144, 6 * 10**9), "10 layers of attention and 30 states take 5.4 of the 6 GB"),
        ((8, 100, 10, 100, 2_600), "exactly full is a fit, and with every third layer 8 // 3 = 2 have attention"),
        ((8, 100, 10, 100, 2_599), "2 x 1,000 + 6 x 100 bytes are too many by one, so one layer of attention is left"),
        ((5, 10, 1, 100, 50), "with n above the number of layers no attention would be left, and that is no hybrid: 0"),
    ]
    for (layers, state, token, tokens, memory), why in cases:
        fits = (n for n in range(1, layers + 1) if _bytes(layers, n, state, token, tokens) <= memory)
        right, got = next(fits, 0), _whole(answer, layers, state, token, tokens, memory)
        if got != right:
            raise Wrong(f"{why}; {layers} layers, {tokens} tokens, {memory} bytes: {right}, not {got}")
    return "counted layer by layer, states included"


write = Exercise(
    "write",
    lesson="deltanet",
    check=_check_write,
    hints=[
        "What does the memory answer now? key @ state, a vector of the value's width.",
        "The correction is beta * (value - answer); torch.outer(key, correction) has the shape of the state.",
    ],
    minutes=4,
    difficulty=1,
)
corrections = Exercise(
    "corrections",
    lesson="deltanet",
    check=_check_corrections,
    hints=[
        "u_t + beta_t * sum over j < t of (k_t . k_j) u_j = beta_t (v_t - what the first state answers to k_t).",
        "The left side is a matrix with ones on its diagonal and beta_t (k_t . k_j) below it: .tril(-1).",
        "torch.linalg.solve_triangular(below, right, upper=False, unitriangular=True) takes the ones for granted.",
    ],
    minutes=10,
    difficulty=2,
)
capacity = Exercise(
    "capacity",
    lesson="deltanet",
    check=_check_capacity,
    hints=[
        "The answer to a sum of two keys is the sum of their answers, whatever stands in the memory.",
        "So what counts is how many keys are linearly independent: the rank of the matrix of keys.",
    ],
    minutes=6,
    difficulty=2,
)
attention_every = Exercise(
    "attention_every",
    lesson="deltanet",
    check=_check_attention_every,
    hints=[
        "With attention in every n-th layer there are layers // n such layers; all others keep a state.",
        "Try n = 1, 2, 3, ... and return the first that fits; 0 after the loop.",
    ],
    minutes=9,
    difficulty=3,
)
