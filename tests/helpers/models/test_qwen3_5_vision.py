"""Our Qwen3.5 with images and transformers' on the same weights: logits, places, caches, padded batches, refusals."""

import pytest
import torch
from support.seeing_models import QWEN3_5, images_of, pair, published, run, words
from support.with_images import patterns, randomised
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
)

from helpers.compare import assert_close, max_error
from helpers.layers.ragged import arrange
from helpers.models.configs.qwen3_5_vision import NAMES, Config, from_hf, published_name
from helpers.models.qwen3_5_vision import Qwen3_5Vision, places
from helpers.planning import plan

CONFIGS = QWEN3_5
EVERY = pytest.mark.parametrize("name", CONFIGS)
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our model and transformers', by the name of the config."""
    return {name: pair(config, tmp_path_factory) for name, config in CONFIGS.items()}


@EVERY
def test_places_of_plain_text_for_an_image_are_seen(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, 4, (3, 2), 5), images_of(config, (3, 2))
    rows, where = arrange(ids, None, None), ids == config.image_token
    x = model.text.embedding(ids).masked_scatter(where[..., None], model.vision(images))
    plain = model.text.decode(x, rows.positions.expand(3, -1, -1), rows)
    assert max_error(plain, run(theirs, ids, images)) > 1e-2


@EVERY
def test_places_are_transformers(pairs, name):
    theirs, config = pairs[name][1], CONFIGS[name]
    ids = torch.cat([words(config, 3, (2, 2), 5, (1, 3), 1), words(config, 1, (4, 3), 3)])
    cells = [(2, 2), (1, 3), (4, 3)]
    grid, kinds = images_of(config, *cells)["image_grid_thw"], (ids == config.image_token).int()
    expected, deltas = theirs.model.get_rope_index(ids, kinds, image_grid_thw=grid)
    found, after = places(arrange(ids, None, None), kinds.bool(), cells, torch.zeros(2, dtype=torch.long))
    assert torch.equal(found, expected)
    assert torch.equal(after, deltas[:, 0] + ids.shape[1])


@EVERY
@pytest.mark.parametrize("cuts", [[24], [11, 13], [3, 8, 1, 2, 9, 1], [1, 1, 1, 8, 3, 7, 1, 1, 1]], ids=str)
def test_any_split_between_images_with_a_cache_is_the_whole(pairs, name, cuts):
    model, config = pairs[name][0], CONFIGS[name]
    ids, cells = words(config, 4, (3, 2), 4, (1, 5), 5), [(3, 2), (1, 5)]
    whole, cache, read, parts = model(ids, images=images_of(config, *cells)), model.new_cache(), 0, []
    pixels = dict(zip(cells, images_of(config, *cells)["pixel_values"].split(patches(config, cells)), strict=True))
    for part in ids.split(cuts, dim=1):
        inside = [c for c, first in zip(cells, (4, 14), strict=True) if read <= first < read + part.shape[1]]
        some = images_of(config, *inside) if inside else None
        if some:
            some["pixel_values"] = torch.cat([pixels[c] for c in inside])
        parts.append(model(part, cache, images=some))
        read += part.shape[1]
    assert max_error(torch.cat(parts, dim=1), whole) <= 1e-4
    assert cache.blocks[-1].next.tolist() == [24 - 6 + 3 - 5 + 5]
    text = model.text.new_cache()
    model.text(ids, text)
    assert cache.bytes() == text.bytes() + 8


def patches(config: Config, cells: list[tuple[int, int]]) -> list[int]:
    return [height * width * config.vision.merge**2 for height, width in cells]


@EVERY
def test_a_call_with_an_image_leaves_nothing_for_the_next(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids, cache, fresh = words(config, 9), model.new_cache(), model.new_cache()
    before = [model(part, fresh) for part in ids.split([6, 1, 2], dim=1)]
    model(words(config, 2, (4, 3), 2), cache, images=images_of(config, (4, 3)))
    again = model.new_cache()
    after = [model(part, again) for part in ids.split([6, 1, 2], dim=1)]
    assert torch.equal(torch.cat(before, dim=1), torch.cat(after, dim=1))


def test_a_picture_cut_by_qwens_processor_is_read(pairs):
    image = pytest.importorskip("PIL.Image").linear_gradient("L").convert("RGB").resize((60, 44))
    processor = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 10**6})
    (model, theirs), config = pairs["dense"], CONFIGS["dense"]
    images = processor(image, return_tensors="pt")
    (_, height, width), merge = images["image_grid_thw"][0].tolist(), config.vision.merge
    ids = words(config, 4, (height // merge, width // merge), 3)
    assert height != width
    assert max_error(model(ids, images=images), run(theirs, ids, dict(images))) <= 1e-4


@pytest.mark.parametrize("size", ["qwen3_5-0.8b", "qwen3_5-35b-a3b"])
def test_a_model_of_published_size_has_as_many_numbers_as_transformers(size):
    whole = AutoConfig.for_model(**plan.published(size))
    with torch.device("meta"):
        theirs, ours = AutoModelForImageTextToText.from_config(whole), Qwen3_5Vision(from_hf(whole.to_dict()))
    assert whole.text_config.num_hidden_layers == ours.config.num_blocks
    for part, other in ((ours.text, theirs.model.language_model), (ours.vision, theirs.model.visual)):
        head = part.head.weight.numel() if getattr(part, "head", None) else 0
        assert numbers(part) - head == numbers(other)


def numbers(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_gradients_are_transformers(pairs):
    (model, theirs), config = pairs["dense"], CONFIGS["dense"]
    ids, images = words(config, 5, (2, 3), 4), images_of(config, (2, 3))
    with torch.enable_grad():
        for logits in (model(ids, images=images), run(theirs, ids, images)):
            torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in model.named_parameters():
        assert_close(weight.grad, expected[published_name(name)], 1e-4, name)
        weight.grad = None


@EVERY
def test_gradients_are_finite_for_every_parameter(name):
    model, config = randomised(Qwen3_5Vision(CONFIGS[name])), CONFIGS[name]
    ids, images = words(config, 9, (2, 3), 14), images_of(config, (2, 3))
    with torch.enable_grad():
        torch.nn.functional.cross_entropy(model(ids, images=images)[0, :-1], ids[0, 1:]).backward()
    for part, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), part


def test_a_video_is_refused(pairs):
    model, config = pairs["dense"][0], CONFIGS["dense"]
    images = images_of(config, (2, 3))
    images["image_grid_thw"] = torch.tensor([[2, 2, 6]])
    with pytest.raises(ValueError, match="2 frames: only still images are read here, and no video"):
        model(words(config, 3, (2, 3)), images=images)


def test_every_name_of_the_table_is_a_parameter_of_some_model():
    assert set(NAMES) == set().union(*[patterns(Qwen3_5Vision(config)) for config in CONFIGS.values()])
    with pytest.raises(ValueError, match="no parameter 'vision_head'"):
        published_name("vision_head")


@EVERY
def test_the_published_config_is_read_as_written_by_transformers(pairs, name):
    assert from_hf(pairs[name][1].config.to_dict()) == CONFIGS[name]
    assert from_hf(published(CONFIGS[name])) == CONFIGS[name]


def test_the_upper_level_says_whether_the_head_is_the_embedding():
    both = published(CONFIGS["dense"])
    assert not from_hf({**both, "tie_word_embeddings": False}).text.tied
    del both["tie_word_embeddings"]
    assert both["text_config"]["tie_word_embeddings"]
    assert not from_hf(both).text.tied  # nothing else than the upper level says it, and it is false unless said
    del both["text_config"]["tie_word_embeddings"]
    assert from_hf({**both, "tie_word_embeddings": True}).text.tied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": None}, "config.json lacks vision_config"),
        ({"text_config": 3}, "config.json lacks text_config"),
        (
            {"vision_config": {**published(CONFIGS["dense"])["vision_config"], "out_hidden_size": 31}},
            "31; the text model",
        ),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf({**published(CONFIGS["dense"]), **changes})


def test_transformers_default_placeholder_is_ours():
    assert Qwen3_5Config().image_token_id == Config.image_token
