"""Drafts guess what they say they guess: what followed before, what a small model writes, what a drafter sees."""

import pytest
import torch

from helpers import zoo
from helpers.checkpoints import load
from helpers.decoding.drafts import MTP, NGram, SmallModel, followers
from helpers.decoding.sampling import probabilities
from helpers.generate import generate
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.training.train import initialise


@pytest.fixture(scope="module")
def model() -> Qwen3:
    model = Qwen3(Config(53, 16, 2, 2, 1, 8, 24)).eval()
    initialise(model, seed=0, std=0.5)
    return model


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ([1, 2, 3, 4, 1, 2], 3, [3, 4, 1, 2]),
        ([1, 2, 9, 1, 2, 7, 1, 2], 2, [7, 1, 2]),  # the newest place counts
        ([5, 2, 8, 1, 2, 7, 5, 2], 1, [7, 5, 2]),  # one token of it: a newer place
        ([5, 2, 8, 1, 2, 7, 5, 2], 2, [8, 1, 2, 7, 5, 2]),  # two: only the older one has both
        ([1, 2, 3], 3, []),
        ([4, 4], 3, [4]),
        ([1], 3, []),
    ],
)
def test_an_n_gram_says_what_followed_then(text, longest, expected):
    assert followers(text, longest) == expected


def test_a_row_that_has_not_repeated_guesses_beside_one_that_has():
    guess = NGram(3, 2).guess([[1, 2, 3, 1, 2], [7, 8, 9]], 3)
    assert guess.tokens.tolist() == [[3, 1, 2], [9, 9, 9]]
    assert guess.probs is None
    assert NGram().guess([[1, 2, 3]], 4).tokens.shape == (1, 0)


def test_a_small_model_writes_ahead_what_it_would_write_alone(model):
    text = [5, 6, 7, 8]
    alone = generate(model, torch.tensor([text]), 6)[0].tolist()
    draft = SmallModel(model, 3)
    guessed = draft.guess([text], 3).tokens[0].tolist()
    assert guessed == alone[4:7]
    for accepted in (0, 1, 3, 2):  # some of the guesses stay, then comes a token that was not guessed
        text = [*text, *guessed[:accepted], 50]
        guessed = draft.guess([text], 3).tokens[0].tolist()
        assert guessed == generate(model, torch.tensor([text]), 3)[0, len(text) :].tolist()


def test_a_new_text_begins_with_nothing_read(model):
    draft = SmallModel(model, 2)
    first = draft.guess([[5, 6, 7]], 2).tokens
    draft.guess([[5, 6, 7, 8]], 2)
    draft.begin()
    assert torch.equal(draft.guess([[5, 6, 7]], 2).tokens, first)


def test_a_small_model_says_what_it_drew_from(model):
    with torch.no_grad():
        wanted = probabilities(model(torch.tensor([[5, 6, 7]]))[:, -1], 0.7)
    guess = SmallModel(model, 2).guess([[5, 6, 7]], 2, 0.7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(guess.probs[:, 0], wanted)
    assert guess.probs.shape == (1, 2, 53)
    assert guess.probs.gather(-1, guess.tokens[..., None]).min() > 0


def test_the_drafter_guesses_what_draft_says_of_the_whole_text():
    model = load(zoo.folder("tiny-deepseek-v3"))
    ids = torch.randint(5, 1000, (1, 20), generator=torch.Generator().manual_seed(0))
    draft, cache = MTP(model, 2), model.new_cache()
    with torch.no_grad():
        draft.read(ids[:, :12], cache)
        for length in (13, 17, 18):  # tokens known: the model has read all but the last
            guess = draft.guess([ids[0, :length].tolist()], 2)
            whole = model.draft(model.read(ids[:, : length - 1]), ids[:, 1:length])
            assert guess.tokens[0, 0] == whole[0, -1].argmax()
            draft.read(ids[:, length - 1 : length + 3], cache)


def test_a_draft_guesses_one_token_or_more_and_a_drafter_must_be_there(model):
    for make in (NGram, lambda k: SmallModel(model, k), lambda k: MTP(load(zoo.folder("tiny-deepseek-v3")), k)):
        with pytest.raises(ValueError, match="k is 0; a draft guesses 1 token or more"):
            make(0)
    with pytest.raises(ValueError, match="no drafter"):
        MTP(load(zoo.folder("tiny-dense-active")))
