"""Our Qwen3.5 with images and transformers' on the same weights: logits, places, caches, padded batches, refusals."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
)
from with_images import in_transformers, joined, padded, patterns, pictures, prompt, randomised

from helpers.checkpoints import configs, plan
from helpers.compare import assert_close, max_error
from helpers.generate import generate
from helpers.layers.rows import arrange
from helpers.models import qwen3_5
from helpers.models.qwen3_5_vision import NAMES, Config, Qwen3_5Vision, from_hf, places, published_name
from helpers.vision import qwen3_5 as tower

TEXT = qwen3_5.Config(
    vocab_size=97, width=32, num_blocks=3, layer_kinds=(qwen3_5.DELTA, qwen3_5.ATTENTION, qwen3_5.ATTENTION),
    num_heads=4, num_kv_heads=2, head_dim=16, delta_key_heads=2, delta_value_heads=4, delta_key_dim=8,
    delta_value_dim=8, conv_width=4, mlp_width=48, rope_theta=1e3, rotary_share=0.75, sections=(2, 2, 2), tied=True,
)  # fmt: skip
ODD = replace(
    TEXT, vocab_size=61, width=33, num_heads=3, num_kv_heads=1, head_dim=14, rotary_share=1.0, sections=(3, 2, 2),
    mlp_width=31, tied=False,
)  # fmt: skip
EXPERTS = replace(
    TEXT, mlp_width=0, num_experts=9, experts_per_token=3, expert_width=7, shared_width=5, tied=False,
)  # fmt: skip
VISION = tower.Config(24, 2, 2, 40, 32, patch_side=4, num_positions=25)
CONFIGS = {
    "dense": Config(TEXT, VISION, image_token=7),
    "odd": Config(
        ODD, tower.Config(20, 1, 1, 31, 33, patch_side=3, frames=1, merge=3, num_positions=49), image_token=60
    ),
    "experts": Config(EXPERTS, VISION, image_token=0),
}
EVERY = pytest.mark.parametrize("name", CONFIGS)
pytestmark = pytest.mark.usefixtures("no_gradients")


def published(config: Config) -> dict:
    """The config.json that says the same."""
    vision = {theirs: getattr(config.vision, ours) for ours, theirs in tower.CONFIG_NAMES.items()}
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
    moe = "_moe" if config.text.num_experts else ""
    return {
        "model_type": f"qwen3_5{moe}",
        "text_config": configs.from_qwen3_5(config.text),
        "vision_config": {**vision, "model_type": f"qwen3_5{moe}_vision"},
        "image_token_id": config.image_token,
        "tie_word_embeddings": config.text.tied,
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our model and transformers', by the name of the config."""
    made = {}
    for name, config in CONFIGS.items():
        model = randomised(Qwen3_5Vision(config))
        kind = Qwen3_5MoeForConditionalGeneration if config.text.num_experts else Qwen3_5ForConditionalGeneration
        made[name] = (
            model,
            in_transformers(model, published(config), published_name, kind, tmp_path_factory.mktemp(name)),
        )
    return made


def words(config: Config, *parts: int | tuple[int, int]) -> torch.Tensor:
    return prompt(config.image_token, config.text.vocab_size, *parts)


def images_of(config: Config, *cells: tuple[int, int], seed: int = 3) -> dict[str, torch.Tensor]:
    c = config.vision
    return pictures((c.channels * c.frames * c.patch_side**2,), c.merge, *cells, seed=seed)


def run(theirs: torch.nn.Module, ids: torch.Tensor, images: dict | None = None) -> torch.Tensor:
    """transformers' logits, with nothing left over from an earlier call."""
    theirs.model.rope_deltas = None
    kinds = (ids == theirs.config.image_token_id).int()
    return theirs(ids, mm_token_type_ids=kinds, **(images or {})).logits


LAYOUTS = [(5, (2, 3), 4), ((1, 4), 3, (3, 1), 2, (2, 2)), (2, (4, 3))]


@EVERY
@pytest.mark.parametrize("parts", LAYOUTS, ids=["one", "three", "at the end"])
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
def test_pixels_and_places_matter(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, cells = words(config, 4, (3, 2), 5), [(3, 2)]
    expected = run(theirs, ids, images_of(config, *cells))
    assert max_error(model(ids, images=images_of(config, *cells, seed=4)), expected) > 1e-2
    turned = {**images_of(config, *cells), "image_grid_thw": images_of(config, (2, 3))["image_grid_thw"]}
    assert max_error(model(ids, images=turned), expected) > 1e-2


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
def test_generated_tokens_are_transformers(pairs, name):
    (model, theirs), config = pairs[name], CONFIGS[name]
    ids, images = words(config, 5, (2, 3), 4), images_of(config, (2, 3))
    kinds, everything = (ids == config.image_token).int(), torch.ones_like(ids)
    expected = theirs.generate(
        ids, max_new_tokens=8, do_sample=False, attention_mask=everything, mm_token_type_ids=kinds, **images
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
    assert cache.lengths.tolist() == [row.shape[1] + 3 for row in rows]


@EVERY
def test_a_call_with_an_image_leaves_nothing_for_the_next(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids, cache, fresh = words(config, 9), model.new_cache(), model.new_cache()
    before = [model(part, fresh) for part in ids.split([6, 1, 2], dim=1)]
    model(words(config, 2, (4, 3), 2), cache, images=images_of(config, (4, 3)))
    again = model.new_cache()
    after = [model(part, again) for part in ids.split([6, 1, 2], dim=1)]
    assert torch.equal(torch.cat(before, dim=1), torch.cat(after, dim=1))


@EVERY
def test_what_stands_before_an_image_does_not_see_it(pairs, name):
    model, config = pairs[name][0], CONFIGS[name]
    ids = words(config, 4, (3, 2), 5)
    one, other = (model(ids, images=images_of(config, (3, 2), seed=seed)) for seed in (1, 2))
    assert max_error(one[:, :4], other[:, :4]) <= 1e-5
    assert max_error(one[:, 4:], other[:, 4:]) > 1e-2


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
def test_images_that_do_not_fit_the_tokens_are_refused_and_the_cache_is_as_before(pairs, parts, cells, message):
    model, config = pairs["dense"][0], CONFIGS["dense"]
    cache, first = model.new_cache(), words(config, 4)
    model(first, cache)
    bytes_before, images = cache.bytes(), None if cells is None else images_of(config, *cells)
    with pytest.raises(ValueError, match=message):
        model(words(config, *parts), cache, images=images)
    assert (cache.bytes(), cache.length, cache.blocks[-1].next.tolist()) == (bytes_before, 4, [4])


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
    assert from_hf(both).text.tied


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
    assert Qwen3_5Config().image_token_id == Config(TEXT, VISION).image_token
