"""Speculative decoding is exact: the model's distribution whatever the draft, and its greedy tokens in every family."""

import itertools

import pytest
import torch
from transformers import AutoTokenizer

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers import zoo
from helpers.checkpoints import load, resolve
from helpers.compare import chance_of
from helpers.decoding import compiled
from helpers.decoding.drafts import MTP, Guess, NGram, SmallModel
from helpers.decoding.request import Interrupted
from helpers.decoding.sampling import probabilities
from helpers.decoding.speculative import accept, certain, residual, speculate
from helpers.generate import generate
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.training.train import initialise

P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.05, 0.4, 0.3]])  # the target's, three places
Q = torch.tensor([[0.1, 0.6, 0.1, 0.2], [0.7, 0.1, 0.1, 0.1]])  # the draft's, two places
DRAWS, UNLUCKY = 40_000, 1e-6  # right code strays farther than this once in a million seeds


def little(seed: int, vocab: int = 53) -> Qwen3:
    model = Qwen3(Config(vocab, 16, 2, 2, 1, 8, 24)).eval()
    initialise(model, seed=seed, std=0.5)  # wide, so that the tokens vary
    return model


class Wrong:
    """Guesses what the model does not say: the token after the one that it would write."""

    k = 3

    def __init__(self, model: torch.nn.Module, vocab: int = 0):
        self.perfect, self.vocab = SmallModel(model, self.k), vocab

    def begin(self) -> None:
        self.perfect.begin()

    def guess(self, texts, k, temperature, generator) -> Guess:
        return Guess((self.perfect.guess(texts, k).tokens + 1) % self.vocab)


class HalfRight(Wrong):
    """The first row's guesses are wrong from the second on, the second row's from the third or fourth."""

    def guess(self, texts, k, temperature, generator) -> Guess:
        right = self.perfect.guess(texts, k).tokens
        wrong_from = torch.tensor([[1], [2 + len(texts[-1]) % 2]])
        return Guess(torch.where(torch.arange(k) < wrong_from, right, 7))


# The rule


def test_the_residual_is_what_p_has_more():
    torch.testing.assert_close(residual(P[0], Q[0]), torch.tensor([0.4, 0.0, 0.05, 0.0]) / 0.45)
    assert torch.equal(residual(P[0], torch.zeros(4)), P[0])
    assert torch.equal(residual(P[0], P[0]), P[0])


def test_accepted_and_refused_together_are_p():
    kept = torch.minimum(P[:2], Q)
    refused = 1 - kept.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(kept + refused * residual(P[:2], Q), P[:2])


def outcomes(rule, draws: int = DRAWS) -> list[torch.Tensor]:
    """Counts of the first, second and third token that ``rule`` writes, each among the rows that got so far."""
    generator = torch.Generator().manual_seed(0)
    drafted = torch.stack([torch.multinomial(q, draws, True, generator=generator) for q in Q], dim=1)
    count, own = rule(drafted, Q.expand(draws, -1, -1), P.expand(draws, -1, -1), generator)
    tokens = torch.cat([drafted, own[:, None]], dim=1)
    tokens[torch.arange(draws), count] = own
    return [torch.bincount(tokens[count >= place, place], minlength=4) for place in range(3)]


def test_what_is_written_is_distributed_as_the_target():
    for place, counts in enumerate(outcomes(accept)):
        assert chance_of(counts, P[place]) > UNLUCKY
        assert place == 2 or chance_of(counts, Q[place]) < UNLUCKY


def resampled_from_p(drafted, q, p, generator):
    """The classic bug: after a refusal the token is drawn from p."""
    count, _ = accept(drafted, q, p, generator)
    return count, torch.multinomial(p[torch.arange(len(p)), count], 1, generator=generator)[:, 0]


def accepted_where_p_is_higher(drafted, q, p, generator):
    """No luck in it: a token stays if and only if the target thinks more of it than the draft."""
    of = lambda probs: probs.gather(-1, drafted[..., None]).squeeze(-1)  # noqa: E731
    count = (of(p[:, :2]) >= of(q)).long().cumprod(dim=1).sum(dim=1)
    row, padded = torch.arange(len(p)), torch.cat([q, torch.zeros_like(q[:, :1])], dim=1)
    own = torch.multinomial(residual(p[row, count], padded[row, count]), 1, generator=generator)[:, 0]
    return count, own


def always_accepted(drafted, q, p, generator):
    """Trust: the draft's distribution comes out."""
    return torch.full((len(p),), 2), torch.multinomial(p[:, 2], 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bug", [resampled_from_p, accepted_where_p_is_higher, always_accepted])
def test_a_biased_rule_is_caught_by_the_same_test(bug):
    assert chance_of(outcomes(bug)[0], P[0]) < UNLUCKY


def test_as_many_stay_as_the_distributions_overlap():
    generator = torch.Generator().manual_seed(1)
    drafted = torch.multinomial(Q[0], DRAWS, True, generator=generator)[:, None]
    count, _ = accept(drafted, Q[:1].expand(DRAWS, -1, -1), P[:2].expand(DRAWS, -1, -1), generator)
    overlap = torch.minimum(P[0], Q[0]).sum()
    assert chance_of(torch.bincount(count, minlength=2), torch.stack([1 - overlap, overlap])) > UNLUCKY


def test_the_first_refusal_ends_it():
    """The second guess would be accepted; it was made on top of one that was not."""
    p = certain(torch.tensor([[2, 1, 3]]), 4)
    count, own = accept(torch.tensor([[0, 1]]), certain(torch.tensor([[0, 1]]), 4), p)
    assert (count.tolist(), own.tolist()) == ([0], [2])


def test_with_nothing_guessed_the_token_is_the_targets():
    counts = torch.bincount(
        accept(torch.zeros(DRAWS, 0, dtype=torch.long), torch.zeros(DRAWS, 0, 4), P[:1].expand(DRAWS, 1, 4))[1]
    )
    assert chance_of(counts, P[0]) > UNLUCKY


# The loop, on one small family


@pytest.mark.parametrize("draft", [SmallModel(little(1, vocab=4), 3), NGram(3, 2)], ids=["small model", "n-gram"])
def test_three_drawn_tokens_are_distributed_as_the_models(draft):
    """All 64 continuations, each with the chance that the model gives it, by rows that go at their own pace."""
    target = little(0, vocab=4)
    rows, prompt = 12_000, torch.tensor([[1, 3, 1, 3]])
    with torch.no_grad():
        every = torch.tensor(list(itertools.product(range(4), repeat=3)))
        logits = target(torch.cat([prompt.expand(64, -1), every], dim=1))[:, 3:6]
        chances = (logits / 1.5).softmax(-1).gather(-1, every[..., None]).prod(dim=1)[:, 0]
    got = speculate(target, prompt.expand(rows, -1), draft, 3, temperature=1.5, seed=0)
    counts = torch.bincount(got.token_ids[:, 4:] @ torch.tensor([16, 4, 1]), minlength=64)
    likely = chances * rows >= 5
    together = lambda x: torch.cat([x[likely], x[~likely].sum()[None]])  # noqa: E731
    assert chance_of(together(counts), together(chances)) > UNLUCKY
    assert 0.1 < got.accepted / got.drafted < 0.95


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    prompt = torch.tensor([[5, 6, 7]])
    drawn = [speculate(little(0), prompt, SmallModel(little(1), 2), 20, 1.0, seed).token_ids for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("new", [0, 1, 2, 7, 12])
def test_as_many_tokens_are_written_as_were_asked_for(new):
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    for draft in (SmallModel(model, 4), NGram(4)):
        assert torch.equal(speculate(model, prompt, draft, new).token_ids, generate(model, prompt, new))


def test_it_stops_at_eos_and_fills_the_rows_that_ended_before():
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    free = generate(model, prompt, 12)
    for eos in {free[0, 5].item(), free[1, 4].item(), free[0, 3].item()}:
        got = speculate(model, prompt, SmallModel(little(0), 4), 12, eos=eos)
        assert torch.equal(got.token_ids, generate(model, prompt, 12, eos=eos))


def test_a_perfect_draft_of_four_makes_a_pass_worth_five_tokens():
    model, prompt = little(0), torch.tensor([[5, 6, 7]])
    got = speculate(model, prompt, SmallModel(little(0), 4), 21)  # the prompt's pass writes one, each round five
    assert (got.passes, got.drafted, got.accepted) == (5, 16, 16)
    assert 20 / (got.passes - 1) == 5


def test_the_model_reads_each_guess_once_and_nothing_twice():
    model, prompt, lengths = little(0), torch.tensor([[5, 6, 7]]), []
    draft = SmallModel(little(0), 4)
    hook = model.register_forward_pre_hook(lambda _model, inputs: lengths.append(inputs[0].shape[1]))
    speculate(model, prompt, draft, 12)
    hook.remove()
    assert lengths == [3, 5, 5, 1]


def test_a_request_that_cannot_be_continued_is_refused():
    with pytest.raises(ValueError, match="temperature is -1"):
        speculate(little(0), torch.tensor([[1]]), NGram(), temperature=-1.0)


def test_a_draft_with_another_tokenizer_is_refused():
    with pytest.raises(ValueError, match="knows 60 tokens and the model 53"):
        speculate(little(0), torch.tensor([[1, 2]]), SmallModel(little(0, vocab=60), 2), 4, temperature=1.0)


# Ends, and figures that count what was kept


class Scripted:
    """A draft that knows what will be written, and says it from the newest token on; past the end it goes on."""

    def __init__(self, text: list[int], k: int):
        self.text, self.k = text, k

    def begin(self) -> None: ...

    def guess(self, texts, k, temperature, generator) -> Guess:
        return Guess(torch.tensor([self.text[len(own) : len(own) + k] for own in texts]))


def test_figures_leave_out_what_stands_behind_an_end():
    """Twenty right guesses in one pass, and an end among them: those up to it were written, and only those count."""
    model, prompt = little(0), torch.tensor([[8, 9, 10]])
    free = generate(model, prompt, 30)[0].tolist()
    eos = next(free[n] for n in range(6, 20) if free.index(free[n], 3) == n)
    end = free.index(eos, 3) + 1 - 3  # tokens up to the end
    got = speculate(model, prompt, Scripted(free, 20), 25, eos=eos)
    assert got.token_ids[0].tolist() == free[: 3 + end]
    assert (got.drafted, got.accepted, got.passes, got.lengths) == (end - 1, end - 1, 2, (end,))
    late = speculate(model, prompt, Scripted(free, 20), end, eos=None)
    assert (late.drafted, late.accepted, late.lengths) == (end - 2, end - 2, (end,))  # the last one is the model's own


def test_every_written_token_is_an_accepted_guess_or_the_models_own():
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10], [7, 7, 7]])
    free = generate(model, prompt, 16)[:, 3:]
    for eos in (None, [free[0, 3].item(), free[1, 6].item()], free[2, 1].item()):
        for draft in (SmallModel(little(0), 4), SmallModel(little(1), 4), NGram(4)):
            got = speculate(model, prompt, draft, 16, eos=eos)
            assert torch.equal(got.token_ids, generate(model, prompt, 16, eos=eos))
            assert 0 <= got.accepted <= got.drafted
            assert sum(got.lengths) - got.accepted <= got.passes * 3
            assert max(got.lengths) == got.token_ids.shape[1] - 3


def test_a_perfect_draft_stays_perfect_where_rows_end_apart():
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    free = generate(model, prompt, 12)[:, 3:].tolist()
    for eos in (free[0][1], free[1][4], free[0][7]):
        got = speculate(model, prompt, SmallModel(little(0), 4), 12, eos=[eos, 52])
        assert got.accepted == got.drafted


@pytest.mark.parametrize("kind", [list, tuple, set, torch.tensor])
def test_several_ends_are_generates(kind):
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    free = generate(model, prompt, 12)[:, 3:].tolist()
    eos = kind([free[0][2], free[1][4]])
    got = speculate(model, prompt, SmallModel(little(1), 3), 12, eos=eos, pad=1)
    assert torch.equal(got.token_ids, generate(model, prompt, 12, eos=eos, pad=1))


def test_a_stop_string_ends_a_row_where_it_ends_generates():
    model, tokenizer = load("zoo"), AutoTokenizer.from_pretrained(resolve("zoo"))
    prompt = tokenizer(["import numpy as np\nx = np", "class A", "def f(x):"], return_tensors="pt", padding=True)
    for stop in ("\n", ["00", "II"]):
        wanted = generate(model, prompt, 16, stop=stop, tokenizer=tokenizer)
        got = speculate(model, prompt, NGram(4), 16, stop=stop, tokenizer=tokenizer)
        assert torch.equal(got.token_ids, wanted)
        assert min(got.lengths) < 16


# Filters


@pytest.mark.parametrize("draft", [SmallModel(little(1, vocab=4), 3), NGram(3, 2)], ids=["small model", "n-gram"])
@pytest.mark.parametrize(
    "filters", [{"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.2}, {"top_k": 3, "top_p": 0.9, "min_p": 0.1}]
)
def test_with_filters_three_drawn_tokens_are_distributed_as_the_filtered_models(draft, filters):
    target, rows, prompt = little(0, vocab=4), 8000, torch.tensor([[1, 3, 1, 3]])
    with torch.no_grad():
        every = torch.tensor(list(itertools.product(range(4), repeat=3)))
        logits = target(torch.cat([prompt.expand(64, -1), every], dim=1))[:, 3:6]
        probs = probabilities(logits, 4.0, **filters).gather(-1, every[..., None]).prod(dim=1)[:, 0]
    got = speculate(target, prompt.expand(rows, -1), draft, 3, temperature=4.0, seed=0, **filters)
    counts = torch.bincount(got.token_ids[:, 4:] @ torch.tensor([16, 4, 1]), minlength=64)
    assert counts[probs == 0].sum() == 0 < (probs == 0).sum()
    assert (probs > 0).sum() >= 8
    likely = probs * rows >= 5
    together = lambda x: torch.cat([x[likely], x[~likely].sum()[None]]) if probs[~likely].sum() else x[likely]  # noqa: E731
    assert chance_of(together(counts), together(probs)) > UNLUCKY


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_filters_at_their_closed_end_write_the_most_likely_tokens(filters):
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    got = speculate(model, prompt, SmallModel(little(1), 3), 12, temperature=2.0, seed=0, **filters)
    assert torch.equal(got.token_ids, generate(model, prompt, 12))


# Drafts and models that go wrong


class Says:
    """A draft that always says the same tokens."""

    k = 3

    def __init__(self, tokens: list[int]):
        self.tokens = tokens

    def begin(self) -> None: ...

    def guess(self, texts, k, temperature, generator) -> Guess:
        return Guess(torch.tensor([self.tokens[:k]] * len(texts), dtype=torch.long))


@pytest.mark.parametrize("tokens", [[], [53], [-1, 2], [2, 99999, 3], [2**40], [3, 3, 3]])
def test_a_guess_that_is_no_token_is_dropped_and_changes_nothing(tokens):
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    got = speculate(model, prompt, Says(tokens), 8)
    assert torch.equal(got.token_ids, generate(model, prompt, 8))
    known = next((n for n, token in enumerate(tokens) if not 0 <= token < 53), len(tokens))
    assert (got.drafted > 0) == (known > 0)


class SpoiledBehind(torch.nn.Module):
    """Its logits behind one token are no numbers."""

    def __init__(self, model: Qwen3, token: int):
        super().__init__()
        self.model, self.token, self.config, self.new_cache = model, token, model.config, model.new_cache

    def forward(self, token_ids, cache=None, mask=None, images=None):
        logits = self.model(token_ids, cache=cache, mask=mask).clone()
        logits[token_ids == self.token] = float("nan")
        return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_fails_behind_a_wrong_guess_only_goes_on(temperature):
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    written = set(generate(model, prompt, 8).flatten().tolist())
    never = next(token for token in range(53) if token not in written)
    got = speculate(SpoiledBehind(model, never), prompt, Says([never] * 3), 8)
    assert torch.equal(got.token_ids, generate(model, prompt, 8))


def test_logits_that_are_no_numbers_are_said_and_what_was_written_is_kept():
    model, prompt = little(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    free = generate(model, prompt, 12)[:, 3:].tolist()
    spoiled = SpoiledBehind(model, free[0][4])
    for draft in (NGram(), SmallModel(little(0), 4), Says([])):
        with pytest.raises(Interrupted, match="row 0 are NaN or infinite") as error:
            speculate(spoiled, prompt, draft, 12)
        assert error.value.lengths[0] == free[0].index(free[0][4]) + 1
        for row, own, length in zip(error.value.token_ids[:, 3:].tolist(), free, error.value.lengths, strict=True):
            assert row[:length] == own[:length]


def test_what_was_written_is_kept_where_a_cache_is_full(monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    model, prompt = little(0), torch.tensor([[5, 6, 7]])
    with pytest.raises(Interrupted, match="the cache has room for 8") as error:
        speculate(compiled.Compiled(model, 8), prompt, SmallModel(little(1), 2), 12)
    length = error.value.lengths[0]
    assert torch.equal(error.value.token_ids, generate(model, prompt, length))
    assert length > 1


# Every family


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    runs.save_random(request.param, folder)
    return load(folder, torch.float64)


VOCAB = 190  # below the placeholders of images


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two prompts longer than windows and chosen shares, the second one padded on the left."""
    ids = torch.randint(VOCAB, (2, 30), generator=torch.Generator().manual_seed(2))
    return ids, torch.arange(30) >= torch.tensor([[0], [7]])


def test_greedy_tokens_are_the_models_whatever_the_draft(model):
    ids, mask = batch()
    wanted = generate(model, ids, 16, mask=mask)
    assert len(wanted[:, 30:].unique()) > 4
    vocab = model(ids[:, :1]).shape[-1]
    perfect = speculate(model, ids, SmallModel(model, 3), 16, mask=mask)
    wrong = speculate(model, ids, Wrong(model, vocab), 16, mask=mask)
    for got in (perfect, wrong):
        assert torch.equal(got.token_ids, wanted)
    assert perfect.accepted == perfect.drafted > 0
    assert (wrong.accepted, wrong.passes) == (0, 16)


def test_rows_that_accept_differently_stay_apart(model):
    """A draft that is right in every other place: rows drift apart, and each gets what it gets alone."""
    ids, mask = batch()
    wanted = generate(model, ids, 16, mask=mask)
    got = speculate(model, ids, HalfRight(model), 16, mask=mask)
    assert torch.equal(got.token_ids, wanted)
    assert 0 < got.accepted < got.drafted
    assert got.passes < 16


@pytest.mark.parametrize("family", ["qwen3_5", "kimi_k25"])
def test_behind_an_image_the_tokens_are_the_models_too(family, tmp_path):
    """A guess that is never right, in the place of each token behind the image: places go back with it. It may be the
    placeholder of an image itself."""
    runs.save_random(family, tmp_path)
    model, given = load(tmp_path, torch.float64), runs.prompts(family, runs.IMAGES)
    columns = torch.stack(given.rows)
    images = runs.placed(runs.beginning_in(columns, given.pictures), model)
    ids = columns[:, runs.TOKEN]

    class Constant:
        k = 2

        def begin(self) -> None: ...

        def guess(self, texts, k, temperature, generator) -> Guess:
            return Guess(torch.full((len(texts), k), self.token))

    for token in (3, model.config.image_token):
        draft = Constant()
        draft.token = token
        got = speculate(model, ids, draft, 10, images=images)
        assert torch.equal(got.token_ids, generate(model, ids, 10, images=images))
        assert got.accepted < got.drafted
    blind = speculate(model, ids, SmallModel(model, 2), 10, images=images)  # it reads placeholders as words
    assert torch.equal(blind.token_ids, generate(model, ids, 10, images=images))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_trained_drafter_changes_no_token_and_saves_passes(k):
    model = load(zoo.folder("tiny-deepseek-v3"))
    ids = torch.randint(5, 1000, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) >= torch.tensor([[0], [5], [11]])
    got = speculate(model, ids, MTP(model, k), 24, mask=mask)
    assert torch.equal(got.token_ids, generate(model, ids, 24, mask=mask))
    assert got.passes < 24
    assert got.accepted > 0.2 * got.drafted


def test_an_option_that_nobody_knows_is_named():
    with pytest.raises(TypeError, match="top_q"):
        speculate(little(0), torch.tensor([[1]]), NGram(), top_q=0.5)
