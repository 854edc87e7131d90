"""Our two vision towers and transformers' on the same random weights and images of odd shapes, block by block."""

import re
from dataclasses import replace

import pytest
import torch
from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25Config, Kimi_K25VisionConfig
from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25MultimodalProjection, Kimi_K25VisionModel
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel

from helpers.compare import max_error, relative_rms
from helpers.vision import moonvit, qwen3_5
from helpers.vision.encoder import resampled
from helpers.vision.images import in_cells, merge_image_features

QWENS = {
    "small": qwen3_5.Config(32, 3, 2, 48, 24, patch_side=4, num_positions=25),
    "odd": qwen3_5.Config(
        36, 2, 3, 31, 19, patch_side=3, frames=1, channels=2, merge=3, num_positions=49, rope_theta=100.0
    ),
    "one head": qwen3_5.Config(20, 1, 1, 7, 33, patch_side=5, merge=1, num_positions=4),
}
MOONS = {
    "small": moonvit.Config(32, 3, 2, 48, patch_side=4, grid_height=5, grid_width=5),
    "odd": moonvit.Config(36, 2, 3, 31, patch_side=3, merge=3, grid_height=7, grid_width=7, rope_theta=100.0),
    "one head": moonvit.Config(20, 1, 1, 7, patch_side=5, merge=1, grid_height=2, grid_width=2),
}
CELLS = [(3, 5), (1, 1), (4, 2), (1, 7)]  # several images per call
TOWERS = [*[("qwen", name) for name in QWENS], *[("moon", name) for name in MOONS]]
BOTH = pytest.mark.parametrize(("kind", "name"), TOWERS, ids=[" ".join(pair) for pair in TOWERS])


def randomise(theirs: torch.nn.Module) -> torch.nn.Module:
    """Every number random: a bias of zero or a norm's weight of one would hide that it is not used."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in theirs.named_parameters():
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.copy_(around + 0.2 * torch.randn(weight.shape, generator=generator))
    return theirs.eval()


def fused(weights: dict[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """MoonViT's files hold q, k and v as one tensor, with the two numbers of a rotary pair as neighbours."""
    whole = dict(weights)
    for name in [name for name in weights if ".q_proj." in name]:
        parts = [whole.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        parts[:2] = [part.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2) for part in parts[:2]]
        whole[name.replace("q_proj", "qkv")] = torch.cat(parts)
    return whole


IN_MEMORY = {  # a published name of MoonViT -> transformers' in memory
    r"patch_embed.pos_emb.weight": "patch_embed.pos_emb.position_embeddings",
    r"encoder\.": "",
    r"blocks": "layers",
    r"mlp.fc1": "mlp.fc2",
    r"mlp.fc0": "mlp.fc1",
    r"norm1": "norm2",
    r"norm0": "norm1",
    r"wqkv": "attn.qkv",
    r"wo\.": "attn.proj.",
}


def moon_weights(theirs: torch.nn.Module, ours: torch.nn.Module) -> dict[str, torch.Tensor]:
    """transformers' tensors by our names."""
    whole, found = fused(theirs.state_dict(), theirs.config.num_attention_heads), {}
    for name in ours.state_dict():
        number = "".join(re.findall(r"\d+", name))
        theirs_name = moonvit.NAMES[re.sub(r"\d+", "{n}", name)].replace("{n}", number)
        for pattern, replacement in IN_MEMORY.items():
            theirs_name = re.sub(pattern, replacement, theirs_name)
        found[name] = whole.pop(theirs_name)
    assert not whole
    return found


def qwen_weights(theirs: torch.nn.Module, ours: torch.nn.Module) -> dict[str, torch.Tensor]:
    whole, found = theirs.state_dict(), {}
    for name in ours.state_dict():
        number = "".join(re.findall(r"\d+", name))
        found[name] = whole.pop(qwen3_5.NAMES[re.sub(r"\d+", "{n}", name)].replace("{n}", number))
    assert not whole
    return found


def published(names: dict[str, str], config) -> dict:
    sizes = {names[ours]: value for ours, value in vars(config).items()}
    return {**sizes, "rope_parameters": {"rope_type": "axial", "rope_theta": sizes.pop("rope_theta")}}


def towers(kind: str, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """transformers' tower and ours, with the same weights."""
    if kind == "qwen":
        config = QWENS[name]
        sizes = Qwen3_5VisionConfig(**published(qwen3_5.CONFIG_NAMES, config))
        theirs = randomise(Qwen3_5VisionModel._from_config(sizes, attn_implementation="eager"))
        ours = qwen3_5.Tower(config)
        ours.load_state_dict(qwen_weights(theirs, ours))
    else:
        config = MOONS[name]
        sizes = published(moonvit.CONFIG_NAMES, config)
        sizes = Kimi_K25VisionConfig(**{**sizes, "merge_kernel_size": (config.merge, config.merge)})
        theirs = randomise(Kimi_K25VisionModel._from_config(sizes, attn_implementation="eager"))
        ours = moonvit.MoonViT(config)
        ours.load_state_dict(moon_weights(theirs, ours))
    return theirs, ours.eval()


def images_for(config, cells: list[tuple[int, int]] = CELLS) -> dict[str, torch.Tensor]:
    """Random pixels in the shape that the family's processor gives, and their grids."""
    grid = torch.tensor([(1, height * config.merge, width * config.merge) for height, width in cells])
    if isinstance(config, qwen3_5.Config):
        patch = (config.channels * config.frames * config.patch_side**2,)
    else:
        patch = (3, config.patch_side, config.patch_side)
    generator = torch.Generator().manual_seed(len(cells))
    pixels = torch.randn(int(grid.prod(dim=1).sum()), *patch, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": grid}


def run(theirs: torch.nn.Module, images: dict[str, torch.Tensor]) -> torch.Tensor:
    """transformers' cells."""
    return theirs(images["pixel_values"], grid_thw=images["image_grid_thw"]).pooler_output


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@BOTH
def test_every_block_and_every_cell_is_transformers(kind, name):
    theirs, ours = towers(kind, name)
    images, seen = images_for(ours.config), []
    for block in theirs.blocks if kind == "qwen" else theirs.layers:
        block.register_forward_hook(lambda _block, inputs, output: seen.append((inputs[0], output)))
    expected = run(theirs, images)
    pixels, grids = ours.unpack(images)
    first = ours.embed(pixels, grids)
    assert max_error(first, seen[0][0]) <= 1e-5
    rotary, sizes = ours.rotary(grids, first.device), [height * width for height, width in grids]
    for n, (x, output) in enumerate(seen):
        assert max_error(ours.blocks[n](x, rotary, sizes), output) <= 1e-5, n
    assert len(seen) == ours.config.num_blocks
    assert expected.std() > 0.1
    assert max_error(ours(images), expected) <= 2e-5
    assert len(expected) == sum(height * width for height, width in CELLS)


@BOTH
@pytest.mark.parametrize("cells", [(1, 1), (1, 6), (9, 1), (5, 3)], ids=str)
def test_an_image_of_any_shape_is_transformers(kind, name, cells):
    theirs, ours = towers(kind, name)
    images = images_for(ours.config, [cells])
    assert max_error(ours(images), run(theirs, images)) <= 2e-5


@BOTH
def test_an_image_does_not_depend_on_its_neighbours(kind, name):
    _, ours = towers(kind, name)
    images = images_for(ours.config)
    together = ours(images).split([height * width for height, width in CELLS])
    pixels = images["pixel_values"].split(images["image_grid_thw"].prod(dim=1).tolist())
    for n, alone in enumerate(pixels):
        one = {"pixel_values": alone, "image_grid_thw": images["image_grid_thw"][n : n + 1]}
        assert max_error(ours(one), together[n]) <= 1e-5


@BOTH
def test_every_patch_of_an_image_is_seen_by_every_cell(kind, name):
    _, ours = towers(kind, name)
    images = images_for(ours.config, [(2, 3), (1, 2)])
    changed = {**images, "pixel_values": images["pixel_values"].clone()}
    changed["pixel_values"][0] += 1
    moved = (ours(changed) - ours(images)).flatten(1).abs().amax(dim=1)
    assert (moved[:6] > 0).all()
    assert (moved[6:] == 0).all()


@BOTH
def test_gradients_are_transformers(kind, name):
    theirs, ours = towers(kind, name)
    images = images_for(ours.config)
    weights = torch.randn(run(theirs, images).shape, generator=torch.Generator().manual_seed(5))
    with torch.enable_grad():
        (ours(images) * weights).sum().backward()
        (run(theirs, images) * weights).sum().backward()
    for weight, grad in zip(theirs.parameters(), [w.grad for w in theirs.parameters()], strict=True):
        weight.copy_(grad)
    expected = (qwen_weights if kind == "qwen" else moon_weights)(theirs, ours)
    for part, weight in ours.named_parameters():
        assert max_error(weight.grad, expected[part]) <= 1e-5 * max(1.0, expected[part].abs().max().item()), part


@BOTH
def test_in_float64_only_the_angles_and_the_softmax_are_rounded(kind, name):
    _, ours = towers(kind, name)
    images = images_for(ours.config)
    assert max_error(ours.double()(images), ours.float()(images)) <= 2e-5


@BOTH
def test_bfloat16_is_as_near_to_float32_as_transformers_is(kind, name):
    theirs, ours = towers(kind, name)
    images = images_for(ours.config)
    exact, half = ours(images), {**images, "pixel_values": images["pixel_values"].bfloat16()}
    found = ours.bfloat16()(half)
    assert found.dtype == torch.bfloat16
    assert relative_rms(found, exact) < 1.5 * relative_rms(run(theirs.bfloat16(), half), exact) < 0.05


@pytest.mark.parametrize("name", MOONS)
def test_the_projector_is_transformers(name):
    config = MOONS[name]
    sizes = Kimi_K25Config(
        text_config={"hidden_size": 23, "num_hidden_layers": 1},
        vision_config={"hidden_size": config.width, "merge_kernel_size": (config.merge, config.merge)},
        projection_hidden_size=config.width, projection_layer_norm_eps=1e-3,
    )  # fmt: skip
    theirs = randomise(Kimi_K25MultimodalProjection(sizes))
    ours = moonvit.Projector(config.width, config.merge**2, 23, epsilon=1e-3)
    parts = {"norm": "pre_norm", "up": "in_proj", "down": "out_proj"}
    ours.load_state_dict(
        {
            f"{us}.{end}": theirs.state_dict()[f"{them}.{end}"]
            for us, them in parts.items()
            for end in ("weight", "bias")
        }
    )
    cells = torch.randn(5, config.merge**2, config.width, generator=torch.Generator().manual_seed(1))
    assert max_error(ours(cells), theirs(cells)[:, 0]) <= 1e-5


@pytest.mark.parametrize(("part", "kind"), [("positions", "moon"), ("positions.weight", "qwen")])
def test_leaving_out_what_tells_the_place_is_seen(part, kind):
    theirs, ours = towers(kind, "small")
    images = images_for(ours.config)
    dict(ours.named_parameters())[part].zero_()
    assert max_error(ours(images), run(theirs, images)) > 1e-3


@pytest.mark.parametrize(("kind", "axes"), [("qwen", (2, -1)), ("moon", (-1, 2))])
def test_rows_turned_as_columns_are_seen(kind, axes):
    theirs, ours = towers(kind, "small")
    images, rotary, axis = images_for(ours.config), ours.rotary, 1 + axes.index(2)
    ours.rotary = lambda *given: tuple(part.unflatten(1, axes).flip(axis).flatten(1) for part in rotary(*given))
    assert max_error(ours(images), run(theirs, images)) > 1e-3


def test_a_grid_in_cells_has_the_patches_of_a_cell_side_by_side():
    grid = torch.arange(24).view(4, 6)
    assert in_cells(grid, 2)[:8].tolist() == [0, 1, 6, 7, 2, 3, 8, 9]
    assert torch.equal(in_cells(grid, 1), grid.flatten())


def test_a_grid_stretched_to_its_own_size_is_itself():
    grid = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0))
    for mode, corners in (("bilinear", True), ("bicubic", False)):
        assert max_error(resampled(grid, 5, 5, mode, corners), grid) <= 1e-6
    assert torch.equal(resampled(grid, 9, 9, "bilinear", True)[::8, ::8], grid[::4, ::4])


def test_vectors_take_the_placeholders_in_reading_order():
    x, where = torch.zeros(2, 3, 1), torch.tensor([[False, True, True], [True, False, False]])
    filled = merge_image_features(x, where, torch.tensor([[1.0], [2.0], [3.0]]), [(2, 1), (1, 1)])
    assert filled.flatten().tolist() == [0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize("count", [None, 2, 4])
def test_more_or_fewer_placeholders_than_vectors_are_refused(count):
    where = torch.tensor([[False, True, True, True]])
    features, cells = (None, []) if count is None else (torch.zeros(count, 2), [(count, 1)])
    with pytest.raises(ValueError, match=f"hold 3 image placeholders, and the images make {count or 0} vectors"):
        merge_image_features(torch.zeros(1, 4, 2), where, features, cells)


@pytest.mark.parametrize("cells", [[(1, 2), (2, 1)], [(1, 1), (1, 3)]], ids=["a word between", "two rows"])
def test_placeholders_of_one_image_that_are_apart_are_refused(cells):
    where = torch.tensor([[True, False, False, True], [True, True, False, False]])
    with pytest.raises(ValueError, match=r"image [01] is 1 x [23] cells; its placeholders are not together"):
        merge_image_features(torch.zeros(2, 4, 2), where, torch.zeros(4, 2), cells)


PIXELS, GRID = torch.zeros(24, 96), torch.tensor([[1, 4, 6]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_grid_thw": torch.tensor([[1, 4, 8]])}, r"hold 24 patches, and the grids \[\[1, 4, 8\]\] need 32"),
        ({"image_grid_thw": torch.tensor([[2, 4, 3]])}, "image 0 has 2 frames: only still images are read here"),
        ({"image_grid_thw": torch.tensor([[1, 4, 4], [1, 3, 2]])}, "image 1 is 3 x 2 patches; both must be multi"),
        ({"image_grid_thw": torch.tensor([[1, 0, 6]])}, "image 0 is 0 x 6 patches"),
        ({"image_grid_thw": torch.tensor([1, 4, 6])}, r"image_grid_thw is torch.int64 of the shape \(3,\)"),
        ({"image_grid_thw": torch.zeros(0, 3, dtype=torch.long)}, r"is torch.int64 of the shape \(0, 3\)"),
        ({"image_grid_thw": GRID.float()}, "is torch.float32 .* must be whole numbers"),
        ({"pixel_values": torch.zeros(24, 3, 4, 4)}, r"pixel_values have the shape \(24, 3, 4, 4\); it must be"),
        ({"pixel_values_videos": PIXELS}, "pixel_values_videos; it must hold pixel_values and"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused(changes, message):
    tower = qwen3_5.Tower(QWENS["small"])
    with pytest.raises(ValueError, match=message):
        tower({"pixel_values": PIXELS, "image_grid_thw": GRID, **changes})


@pytest.mark.parametrize("name", QWENS)
def test_qwens_config_is_read_as_written_by_transformers(name):
    sizes = Qwen3_5VisionConfig(**published(qwen3_5.CONFIG_NAMES, QWENS[name]))
    assert qwen3_5.from_hf(sizes.to_dict()) == QWENS[name]


@pytest.mark.parametrize("name", MOONS)
def test_moonvits_config_is_read_as_written_by_transformers_and_by_moonshot(name):
    sizes, merge = published(moonvit.CONFIG_NAMES, MOONS[name]), MOONS[name].merge
    sizes["merge_kernel_size"] = [merge, merge]
    assert moonvit.from_hf(Kimi_K25VisionConfig(**sizes).to_dict()) == MOONS[name]
    assert moonvit.from_hf({moonvit.OLDER.get(key, key): value for key, value in sizes.items()}) == MOONS[name]


def test_a_config_without_sizes_is_kimi_k25s_own():
    assert moonvit.from_hf(Kimi_K25VisionConfig().to_dict()) == moonvit.from_hf({}) == moonvit.Config()


@pytest.mark.parametrize(
    ("read", "changes", "message"),
    [
        (qwen3_5.from_hf, {"depth": None}, "vision_config lacks depth"),
        (qwen3_5.from_hf, {"deepstack_visual_indexes": [5]}, r"deepstack_visual_indexes=\[5\]"),
        (qwen3_5.from_hf, {"hidden_act": "silu"}, "hidden_act='silu'; this tower has only 'gelu_pytorch_tanh'"),
        (qwen3_5.from_hf, {"num_heads": 5}, "width 32 does not give 5 heads"),
        (qwen3_5.from_hf, {"num_position_embeddings": 26}, "26; a square grid needs a square number"),
        (moonvit.from_hf, {"merge_kernel_size": [2, 1]}, r"merge_kernel_size=\[1, 2\]; cells are square here"),
        (moonvit.from_hf, {"merge_type": "conv"}, "merge_type='conv'"),
        (moonvit.from_hf, {"num_attention_heads": 64}, "width 1152 does not give 64 heads"),
    ],
)
def test_a_tower_that_is_not_ours_is_refused(read, changes, message):
    small = published(qwen3_5.CONFIG_NAMES, QWENS["small"]) if read is qwen3_5.from_hf else {}
    with pytest.raises(ValueError, match=message):
        read({**small, **changes})


def test_a_head_without_pairs_for_both_axes_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        replace(MOONS["small"], width=36, num_heads=2)
