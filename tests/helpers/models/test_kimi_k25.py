"""Our Kimi K2.5 and transformers' on the same weights, read by their published names: logits, caches, refusals."""

import re
from dataclasses import replace

import pytest
import torch
from support.seeing_models import KIMI_K25, images_of, pair, published, run, words
from support.with_images import patterns
from transformers import AutoConfig, Kimi_K25Config, Kimi_K25ForConditionalGeneration

from helpers.compare import max_error, relative_rms
from helpers.models.configs.kimi_k25 import NAMES, OLDER, Config, from_hf, published_name
from helpers.models.kimi_k25 import KimiK25
from helpers.planning import plan
from helpers.vision import moonvit

CONFIGS = KIMI_K25
EVERY = pytest.mark.parametrize("name", CONFIGS)
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our model and transformers', by the name of the config."""
    return {name: pair(config, tmp_path_factory) for name, config in CONFIGS.items()}


@EVERY
def test_the_tower_and_the_projector_are_transformers(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    images = images_of(config, (2, 3), (1, 1), (5, 2))
    expected = torch.cat(theirs.model.get_image_features(**images).pooler_output)
    assert max_error(model.projector(model.vision(images)), expected) <= 1e-5 * max(1.0, expected.std().item())


@pytest.mark.parametrize("name", ["yarn", "odd and tied"])
def test_a_text_with_every_expert_is_another_model(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids, images = words(config, 4, (3, 2), 5), images_of(config, (3, 2))
    every = KimiK25(replace(config, text=replace(config.text, experts_per_token=config.text.num_experts)))
    every.load_state_dict(model.state_dict())
    assert max_error(every(ids, images=images), model(ids, images=images)) > 1e-2


@EVERY
@pytest.mark.parametrize("cuts", [[18], [11, 7], [3, 8, 1, 2, 4], [1, 1, 1, 1, 6, 1, 1, 5, 1]], ids=str)
def test_any_split_around_an_image_with_a_cache_is_the_whole(pairs, name, cuts):
    model, config = pairs[name][0], CONFIGS[name]
    ids, images = words(config, 4, (3, 2), 8), images_of(config, (3, 2))
    cache, parts = model.new_cache(), []
    for part in ids.split(cuts, dim=1):
        parts.append(model(part, cache, images=images if (part == config.image_token).any() else None))
    assert max_error(torch.cat(parts, dim=1), model(ids, images=images)) <= 1e-4
    assert cache.bytes() == config.text.num_blocks * 18 * (config.text.latent_width + config.text.rotary_dim) * 4


def test_a_model_of_published_size_has_as_many_numbers_as_transformers():
    whole = AutoConfig.for_model(**plan.published("kimi_k25"))
    whole.text_config.num_hidden_layers = 3
    with torch.device("meta"):
        theirs, ours = Kimi_K25ForConditionalGeneration(whole), KimiK25(from_hf(whole.to_dict()))
    parts = (ours.vision, theirs.model.vision_tower), (ours.projector, theirs.model.mm_projector), (ours, theirs)
    for part, other in parts:
        assert numbers(part) == numbers(other) > 1e6


def numbers(module: torch.nn.Module) -> int:
    saved = {name: tensor.numel() for name, tensor in module.state_dict().items()}
    return sum(saved.values())


@EVERY
def test_gradients_reach_the_pixels_as_in_transformers_and_every_parameter(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, found = words(config, 9, (2, 3), 14), []
    for one in (model, theirs):
        images = images_of(config, (2, 3))
        images["pixel_values"].requires_grad_()
        with torch.enable_grad():
            logits = one(ids, images=images) if one is model else run(one, ids, images)
            torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        found.append(images["pixel_values"].grad)
    assert relative_rms(*found) <= 1e-4
    for part, weight in model.named_parameters():
        unused = weight.grad is None and part.endswith("router.bias")  # it chooses, and is not in any sum
        assert unused or weight.grad.isfinite().all(), part


def test_every_name_of_the_table_is_a_parameter_of_some_model():
    assert set(NAMES) == set().union(*[patterns(KimiK25(config)) for config in CONFIGS.values()])
    assert published_name("vision.blocks.12.mlp.up.bias") == "vision_tower.encoder.blocks.12.mlp.fc0.bias"
    ours, theirs = "text.blocks.3.mlp.experts.down", "language_model.model.layers.3.mlp.experts.{e}.down_proj.weight"
    assert published_name(ours) == theirs
    with pytest.raises(ValueError, match="no parameter 'vision_head'"):
        published_name("vision_head")


@EVERY
def test_the_published_config_is_read_as_written_by_transformers_and_by_moonshot(pairs, name):
    assert from_hf(pairs[name][1].config.to_dict()) == CONFIGS[name]
    older = published(CONFIGS[name])
    vision = {moonvit.OLDER.get(key, key): value for key, value in older["vision_config"].items()}
    vision["projector_ln_eps"] = older.pop("projection_layer_norm_eps")
    older["media_placeholder_token_id"] = older.pop("image_token_id")
    assert set(OLDER.values()) == {"projector_ln_eps", "media_placeholder_token_id"}
    assert from_hf({**older, "vision_config": vision}) == CONFIGS[name]


def test_the_defaults_of_transformers_are_ours():
    theirs = Kimi_K25Config()
    assert theirs.image_token_id == Config.image_token
    assert moonvit.from_hf(theirs.vision_config.to_dict()) == moonvit.Config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": None}, "config.json lacks vision_config"),
        ({"text_config": 3}, "config.json lacks text_config"),
        ({"projection_hidden_size": 23}, "projection_hidden_size=23; the tower's width is 24"),
        ({"tie_word_embeddings": None}, "lacks tie_word_embeddings"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_hf({**published(CONFIGS["yarn"]), **changes})


def test_a_drafter_is_refused():
    with pytest.raises(ValueError, match="has no drafter"):
        replace(CONFIGS["yarn"], text=replace(CONFIGS["yarn"].text, num_drafters=1))


@EVERY
def test_two_images_may_stand_without_a_word_between(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, (1, 4), 3, (3, 1), (2, 2)), images_of(config, (1, 4), (3, 1), (2, 2))
    assert max_error(model(ids, images=images), run(theirs, ids, images)) <= 1e-4
