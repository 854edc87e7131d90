"""Speculative decoding is exact: the model's distribution whatever the draft, and its greedy tokens in every family."""

import itertools

import pytest
import torch

from course import parity_runs
from course.parity_configs import CONFIGS
from helpers import zoo
from helpers.checkpoints import load
from helpers.compare import chance_of
from helpers.drafts import MTP, Guess, NGram, SmallModel
from helpers.generate import generate
from helpers.models.qwen3 import Config, Qwen3
from helpers.speculative import accept, certain, residual, speculate
from helpers.train import initialise

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
    of = lambda chances: chances.gather(-1, drafted[..., None]).squeeze(-1)  # noqa: E731
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


# Every family


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    parity_runs.save_random(request.param, folder)
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
    """A guess that is never right, in the place of each token behind the image: places go back with it."""
    parity_runs.save_random(family, tmp_path)
    model, given = load(tmp_path, torch.float64), parity_runs.prompts(family, parity_runs.IMAGES)
    columns = torch.stack(given.rows)
    images = parity_runs.placed(parity_runs.beginning_in(columns, given.pictures), model)
    ids = columns[:, parity_runs.TOKEN]

    class Constant:
        k = 2

        def begin(self) -> None: ...

        def guess(self, texts, k, temperature, generator) -> Guess:
            return Guess(torch.full((len(texts), k), 3))

    got = speculate(model, ids, Constant(), 10, images=images)
    assert torch.equal(got.token_ids, generate(model, ids, 10, images=images))
    assert got.accepted < got.drafted


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_trained_drafter_changes_no_token_and_saves_passes(k):
    model = load(zoo.folder("tiny-deepseek-v3"))
    ids = torch.randint(5, 1000, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) >= torch.tensor([[0], [5], [11]])
    got = speculate(model, ids, MTP(model, k), 24, mask=mask)
    assert torch.equal(got.token_ids, generate(model, ids, 24, mask=mask))
    assert got.passes < 24
    assert got.accepted > 0.2 * got.drafted
