"""Our Qwen3.5 and Kimi K2.5 with images and transformers' on the same weights: logits, padded batches, refusals."""

import pytest
import torch
from support.seeing_models import KIMI_K25, QWEN3_5, images_of, pair, run, told, words
from support.with_images import joined, padded

from helpers.compare import max_error
from helpers.decoding.drafts import NGram, SmallModel
from helpers.decoding.speculative import speculate
from helpers.generate import generate
from helpers.reference import with_cache

CONFIGS = {f"Qwen3.5, {name}": config for name, config in QWEN3_5.items()}
CONFIGS |= {f"Kimi K2.5, {name}": config for name, config in KIMI_K25.items()}
EVERY = pytest.mark.parametrize("name", CONFIGS)
ONE_A_FAMILY = pytest.mark.parametrize("name", ["Qwen3.5, dense", "Kimi K2.5, yarn"])
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our model and transformers', by the name of the config."""
    return {name: pair(config, tmp_path_factory) for name, config in CONFIGS.items()}


LAYOUTS = {"one": (5, (2, 3), 4), "three": ((1, 4), 3, (3, 1), 2, (2, 2)), "at the end": (2, (4, 3))}


@EVERY
@pytest.mark.parametrize("parts", LAYOUTS.values(), ids=LAYOUTS)
def test_logits_are_transformers(pairs, name, parts):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, *parts), images_of(config, *[part for part in parts if isinstance(part, tuple)])
    expected = run(theirs, ids, images)
    assert expected.std() > 0.3
    assert max_error(model(ids, images=images), expected) <= 1e-4


@EVERY
def test_the_images_of_two_rows_go_to_their_own_rows(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids = torch.cat([words(config, 3, (2, 2), 5, (1, 3), 1), words(config, 1, (4, 3), 3)])
    images = images_of(config, (2, 2), (1, 3), (4, 3))
    assert max_error(model(ids, images=images), run(theirs, ids, images)) <= 1e-4


@EVERY
def test_without_an_image_it_is_the_text_model(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids = words(config, 21)
    assert torch.equal(model(ids), model.text(ids))
    assert max_error(model(ids), run(theirs, ids)) <= 1e-4


@EVERY
def test_pixels_and_the_shape_of_the_grid_matter(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, cells = words(config, 4, (3, 2), 5), [(3, 2)]
    expected = run(theirs, ids, images_of(config, *cells))
    assert max_error(model(ids, images=images_of(config, *cells, seed=4)), expected) > 1e-2
    turned = {**images_of(config, *cells), "image_grid_thw": images_of(config, (2, 3))["image_grid_thw"]}
    assert max_error(model(ids, images=turned), expected) > 1e-2


@EVERY
def test_generated_tokens_are_transformers(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, 5, (2, 3), 4), images_of(config, (2, 3))
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids), "eos_token_id": -1}
    expected = theirs.generate(ids, **asked, **told(theirs, ids), **images)
    assert torch.equal(generate(model, ids, 8, images=images), expected)


@EVERY
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_each_row_gets_transformers_unpadded_answer(pairs, name, left):
    (model, theirs), config = pairs[name], CONFIGS[name]
    rows = [words(config, 4, (2, 3), 5), words(config, 3), words(config, (1, 2), 2, (3, 1))]
    images = [images_of(config, (2, 3)), None, images_of(config, (1, 2), (3, 1), seed=9)]
    ids, mask = padded(rows, config.image_token, left)  # padding that looks like images
    cache, more = model.new_cache(), torch.cat([words(config, 3 + n)[:, -3:] for n in range(3)])
    first = model(ids, cache, mask, joined(images[0], images[2]))
    steps = [model(part, cache) for part in more.split([1, 2], dim=1)]
    for n in range(3):
        alone = run(theirs, torch.cat([rows[n], more[n : n + 1]], dim=1), images[n])[0]
        together = torch.cat([first[n][mask[n]], *[step[n] for step in steps]])
        assert max_error(together, alone) <= 1e-4, n
    assert cache.lengths.tolist() == [row.shape[1] + 3 for row in rows]


@EVERY
def test_what_stands_before_an_image_does_not_see_it(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids = words(config, 4, (3, 2), 5)
    one, other = (model(ids, images=images_of(config, (3, 2), seed=seed)) for seed in (1, 2))
    assert max_error(one[:, :4], other[:, :4]) <= 1e-5
    assert max_error(one[:, 4:], other[:, 4:]) > 1e-2


WRONG = {
    "no images": ((3, (2, 3)), None, "the tokens hold 6 image placeholders, and the images make 0 vectors"),
    "no placeholders": ((9,), [(2, 3)], "the tokens hold 0 image placeholders, and the images make 6 vectors"),
    "too many": ((3, (2, 3), 1), [(2, 3), (1, 1)], "hold 6 image placeholders, and the images make 7 vectors"),
    "apart": ((3, (1, 2), 1, (1, 4)), [(2, 3)], "image 0 is 2 x 3 cells; its placeholders are not together"),
}


@ONE_A_FAMILY
@pytest.mark.parametrize(("parts", "cells", "message"), WRONG.values(), ids=WRONG)
def test_images_that_do_not_fit_the_tokens_are_refused_and_the_cache_is_as_before(pairs, name, parts, cells, message):
    model, config = pairs[name][0], CONFIGS[name]
    cache = model.new_cache()
    model(words(config, 4), cache)
    bytes_before, images = cache.bytes(), None if cells is None else images_of(config, *cells)
    with pytest.raises(ValueError, match=message):
        model(words(config, *parts), cache, images=images)
    assert (cache.bytes(), cache.length) == (bytes_before, 4)


class Insists(torch.nn.Module):
    """A model that writes one token in every other place, whatever it reads."""

    def __init__(self, model: torch.nn.Module, token: int):
        super().__init__()
        self.model, self.token, self.config, self.new_cache = model, token, model.config, model.new_cache

    def forward(self, token_ids, cache=None, mask=None, images=None):
        logits = self.model(token_ids, cache=cache, mask=mask, images=images).clone()
        if cache.length % 2 == 0:
            logits[:, -1, self.token] = 1e4
        return logits


def their_steps(theirs: torch.nn.Module, ids: torch.Tensor, new: torch.Tensor, images: dict | None) -> torch.Tensor:
    """transformers' logits at tokens that are read one by one behind a prompt."""
    memory = theirs(ids, use_cache=True, **told(theirs, ids), **(images or {})).past_key_values
    steps = [theirs(token, use_cache=True, **with_cache(theirs, memory)).logits for token in new.split(1, dim=1)]
    return torch.cat(steps, dim=1)


@EVERY
@pytest.mark.parametrize("parts", [(6,), (3, (2, 2), 3)], ids=["text", "image"])
def test_a_placeholder_that_the_model_wrote_asks_for_no_image(pairs, name, parts):
    """And its logits are transformers', which lets its models write it too."""
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, cells = words(config, *parts), [part for part in parts if isinstance(part, tuple)]
    images, cache = images_of(config, *cells) if cells else None, model.new_cache()
    new = generate(Insists(model, config.image_token), ids, 8, images=images)[:, ids.shape[1] :]
    assert (new == config.image_token).sum() >= 4
    model(ids, cache, images=images)
    cache.words_only = True
    found = torch.cat([model(token, cache) for token in new.split(1, dim=1)], dim=1)
    assert max_error(found, their_steps(theirs, ids, new, images)) <= 1e-4


@ONE_A_FAMILY
def test_a_placeholder_in_a_prompt_still_asks_for_its_image(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids = words(config, 3, (1, 2), 2)
    for ask in (generate, lambda *given: speculate(*given[:2], NGram())):
        with pytest.raises(ValueError, match="hold 2 image placeholders, and the images make 0 vectors"):
            ask(model, ids, 2)


@EVERY
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_with_images_each_row_writes_what_it_writes_alone(pairs, name, left):
    model, config = pairs[name][0], CONFIGS[name]
    rows = [words(config, 4, (2, 3), 5), words(config, 3), words(config, (1, 2), 2, (3, 1))]
    images = [images_of(config, (2, 3)), None, images_of(config, (1, 2), (3, 1), seed=9)]
    alone = [generate(model, row, 6, images=own)[0, -6:] for row, own in zip(rows, images, strict=True)]
    ids, mask = padded(rows, config.image_token, left)
    both = joined(images[0], images[2])
    asked = {"input_ids": ids, "attention_mask": mask.long(), "mm_token_type_ids": (ids == config.image_token).int()}
    assert torch.equal(generate(model, ids, 6, mask=mask, images=both)[:, -6:], torch.stack(alone))
    assert torch.equal(generate(model, {**asked, **both}, 6)[:, -6:], torch.stack(alone))  # as a processor returns it
    guessed = speculate(model, {**asked, **both}, SmallModel(model, 2), 6)
    assert torch.equal(guessed.token_ids[:, -6:], torch.stack(alone))
