"""Our Kimi K2.5 and transformers' on the same weights, read by their published names: logits, caches, refusals."""

import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, Kimi_K25Config, Kimi_K25ForConditionalGeneration
from with_images import in_transformers, joined, padded, patterns, pictures, prompt, randomised

from helpers.checkpoints import configs, plan
from helpers.compare import max_error, relative_rms
from helpers.generate import generate
from helpers.layers.rope import Yarn
from helpers.models import deepseek_v3
from helpers.models.kimi_k25 import NAMES, OLDER, Config, KimiK25, from_hf, published_name
from helpers.vision import moonvit

TEXT = deepseek_v3.Config(
    vocab_size=97, width=32, num_blocks=3, num_dense=1, num_heads=4, query_rank=12, latent_width=16, head_dim=8,
    rotary_dim=4, value_dim=8, mlp_width=40, num_experts=8, experts_per_token=2, expert_width=10, num_shared=1,
    routed_scale=2.827, rope_theta=5e4, yarn=Yarn(64.0, 16, turned_strength=1.0, strength=1.0), context=1024,
)  # fmt: skip
ODD = replace(
    TEXT, vocab_size=61, width=27, num_blocks=2, num_dense=0, num_heads=7, query_rank=None, latent_width=9, head_dim=5,
    rotary_dim=6, value_dim=11, num_experts=5, experts_per_token=3, num_shared=2, yarn=None, tied=True,
)  # fmt: skip
VISION = moonvit.Config(24, 2, 2, 40, patch_side=4, grid_height=5, grid_width=5)
CONFIGS = {
    "yarn": Config(TEXT, VISION, image_token=7),
    "odd and tied": Config(
        ODD, moonvit.Config(20, 1, 1, 31, 3, 3, 7, 7, 100.0), image_token=60, projector_epsilon=1e-3
    ),
    "dense": Config(replace(TEXT, num_blocks=2, num_dense=2, num_heads=1, yarn=None), VISION, image_token=0),
}
EVERY = pytest.mark.parametrize("name", CONFIGS)
pytestmark = pytest.mark.usefixtures("no_gradients")


def published(config: Config) -> dict:
    """The config.json that says the same."""
    vision = {theirs: getattr(config.vision, ours) for ours, theirs in moonvit.CONFIG_NAMES.items()}
    vision["merge_kernel_size"] = [config.vision.merge] * 2
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
    return {
        "model_type": "kimi_k25",
        "text_config": configs.from_deepseek_v3(config.text),
        "vision_config": {**vision, "model_type": "kimi_k25_vision"},
        "image_token_id": config.image_token,
        "video_token_id": config.text.vocab_size,
        "projection_hidden_size": config.vision.width,
        "projection_layer_norm_eps": config.projector_epsilon,
        "tie_word_embeddings": config.text.tied,
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our model and transformers', by the name of the config."""
    made = {}
    for name, config in CONFIGS.items():
        model, folder = randomised(KimiK25(config)), tmp_path_factory.mktemp("kimi")
        kind = Kimi_K25ForConditionalGeneration
        made[name] = model, in_transformers(model, published(config), published_name, kind, folder)
    return made


def words(config: Config, *parts: int | tuple[int, int]) -> torch.Tensor:
    return prompt(config.image_token, config.text.vocab_size, *parts)


def images_of(config: Config, *cells: tuple[int, int], seed: int = 3) -> dict[str, torch.Tensor]:
    return pictures((3, config.vision.patch_side, config.vision.patch_side), config.vision.merge, *cells, seed=seed)


def run(theirs: torch.nn.Module, ids: torch.Tensor, images: dict | None = None) -> torch.Tensor:
    return theirs(ids, **(images or {})).logits


LAYOUTS = [(5, (2, 3), 4), ((1, 4), 3, (3, 1), (2, 2)), (2, (4, 3))]


@EVERY
@pytest.mark.parametrize("parts", LAYOUTS, ids=["one", "three, two without a word between", "at the end"])
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
def test_the_tower_and_the_projector_are_transformers(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    images = images_of(config, (2, 3), (1, 1), (5, 2))
    expected = torch.cat(theirs.model.get_image_features(**images).pooler_output)
    assert max_error(model.projector(model.vision(images)), expected) <= 1e-5 * max(1.0, expected.std().item())


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


@EVERY
def test_generated_tokens_are_transformers(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, 5, (2, 3), 4), images_of(config, (2, 3))
    expected = theirs.generate(
        ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids), **images, eos_token_id=-1
    )
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


@EVERY
def test_what_stands_before_an_image_does_not_see_it(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids = words(config, 4, (3, 2), 5)
    one, other = (model(ids, images=images_of(config, (3, 2), seed=seed)) for seed in (1, 2))
    assert max_error(one[:, :4], other[:, :4]) <= 1e-5
    assert max_error(one[:, 4:], other[:, 4:]) > 1e-2


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


@pytest.mark.parametrize(
    ("parts", "cells", "message"),
    [
        ((3, (2, 3)), None, "the tokens hold 6 image placeholders, and the images make 0 vectors"),
        ((9,), [(2, 3)], "the tokens hold 0 image placeholders, and the images make 6 vectors"),
        ((3, (2, 3), 1), [(2, 3), (1, 1)], "hold 6 image placeholders, and the images make 7 vectors"),
        ((3, (1, 2), 1, (1, 4)), [(2, 3)], "image 0 is 2 x 3 cells; its placeholders are not together"),
    ],
    ids=["no images", "no placeholders", "too many images", "apart"],
)
def test_images_that_do_not_fit_the_tokens_are_refused(pairs, parts, cells, message):
    model, config = pairs["yarn"][0], CONFIGS["yarn"]
    with pytest.raises(ValueError, match=message):
        model(words(config, *parts), images=None if cells is None else images_of(config, *cells))


def test_every_name_of_the_table_is_a_parameter_of_some_model():
    assert set(NAMES) == set().union(*[patterns(KimiK25(config)) for config in CONFIGS.values()])
    assert published_name("vision.blocks.12.mlp.up.bias") == "vision_tower.encoder.blocks.12.mlp.fc0.bias"
    assert (
        published_name("text.blocks.3.mlp.experts.up") == "language_model.model.layers.3.mlp.experts.{e}.up_proj.weight"
    )
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
    assert theirs.image_token_id == Config(TEXT, VISION).image_token
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
        Config(replace(TEXT, num_drafters=1), VISION)
