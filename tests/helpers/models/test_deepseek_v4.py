"""Our DeepSeek-V4 and transformers' on the same random weights: every part, the logits, the cache, padded batches."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from helpers.compare import causality_probe, max_error, relative_rms
from helpers.layers.ragged import Rows, arrange
from helpers.layers.rope import Yarn
from helpers.models.configs import deepseek_v4
from helpers.models.configs.deepseek_v4 import (
    FLASH,
    HASHED,
    HEAVY,
    LEARNED,
    NAMES,
    PRO,
    SPARSE,
    WINDOW,
    Config,
    from_hf,
    published_name,
    to_hf,
)
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.published import names_of_experts

YARN = Yarn(factor=16.0, context=64, given=1.0)
FOUR = Config(
    vocab_size=61,
    width=24,
    num_blocks=4,
    layer_kinds=(WINDOW, HEAVY, SPARSE, SPARSE),
    router_kinds=(HASHED, LEARNED, HASHED, LEARNED),
    num_heads=4,
    head_dim=16,
    rotary_dim=8,
    query_rank=20,
    output_groups=2,
    output_rank=6,
    window=7,
    index_heads=16,
    index_dim=12,
    index_k=3,
    num_experts=6,
    experts_per_token=2,
    expert_width=14,
    num_streams=4,
    heavy_ratio=8,
    yarn=YARN,
    context=1024,
)
ODD = replace(  # more heads than experts, no YaRN, three streams, limits that bite
    FOUR,
    width=27,
    num_blocks=2,
    layer_kinds=(SPARSE, HEAVY),
    router_kinds=(LEARNED, LEARNED),
    num_heads=9,
    output_groups=3,
    window=16,
    index_k=2,
    num_experts=5,
    experts_per_token=3,
    num_streams=3,
    sparse_ratio=3,
    heavy_ratio=5,
    routed_scale=2.5,
    activation_limit=0.4,
    sinkhorn_rounds=3,
    norm_epsilon=1e-5,
    yarn=None,
)
NEAR = replace(
    FOUR, num_blocks=1, layer_kinds=(WINDOW,), router_kinds=(HASHED,), window=1, num_streams=2, rotary_dim=4, tied=True
)
CONFIGS = pytest.mark.parametrize("config", [FOUR, ODD, NEAR], ids=["four", "odd", "near"])
LENGTH = 33


@functools.cache
def reference(config: Config) -> DeepseekV4ForCausalLM:
    """transformers' model with every number random, the tables and the balancing biases too."""
    theirs = DeepseekV4ForCausalLM._from_config(
        DeepseekV4Config(**to_hf(config)), attn_implementation="eager", experts_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.state_dict().items():
            if weight.is_floating_point():
                around = 1.0 if name.endswith("norm.weight") else 0.0
                weight.copy_(around + 0.25 * torch.randn(weight.shape, generator=generator))
            else:
                chosen = torch.rand(len(weight), config.num_experts, generator=generator).argsort(dim=-1)
                weight.copy_(chosen[:, : weight.shape[1]])
    return theirs


def stored(theirs: DeepseekV4ForCausalLM) -> dict[str, torch.Tensor]:
    """The tensors under the names that transformers writes to a file."""
    return revert_weight_conversion(theirs, theirs.state_dict())


def taken(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Our parameter out of a checkpoint's tensors."""
    name = published_name(name)
    if "{e}" not in name:
        return weights[name]
    every = [parts for parts in names_of_experts(name, len(weights)) if parts[0] in weights]
    return torch.stack([torch.cat([weights[part] for part in parts]) for parts in every])


def ours_from(theirs: DeepseekV4ForCausalLM, config: Config) -> DeepSeekV4:
    model, weights = DeepSeekV4(config).eval(), stored(theirs)
    model.load_state_dict({name: taken(weights, name) for name in model.state_dict()})
    return model


def tokens(config: Config, length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def close(a: torch.Tensor, b: torch.Tensor, allowed: float) -> bool:
    return max_error(a, b) <= allowed * max(1.0, b.abs().max().item())


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("gradients" in request.node.name):
        yield


@CONFIGS
@pytest.mark.parametrize("length", [1, 3, LENGTH])
def test_logits_are_transformers(config, length):
    theirs = reference(config)
    ids = tokens(config, length)
    assert max_error(ours_from(theirs, config)(ids), theirs(ids).logits) <= 1e-4


class Seen:
    """What transformers' parts were given and gave, block by block, for one forward."""

    def __init__(self, theirs: DeepseekV4ForCausalLM, ids: torch.Tensor):
        self.layers, self.attention, self.mlp, self.routing, self.bias = [], [], [], [], []
        hooks = []
        for layer in theirs.model.layers:
            hooks.append(layer.register_forward_hook(self._keep(self.layers)))
            hooks.append(layer.self_attn.register_forward_hook(self._keep(self.attention)))
            hooks.append(layer.mlp.register_forward_hook(self._keep(self.mlp)))
            hooks.append(layer.mlp.gate.register_forward_hook(self._keep(self.routing)))
            if layer.self_attn.compressor is not None:
                hooks.append(layer.self_attn.compressor.register_forward_hook(self._keep(self.bias)))
        theirs(ids)
        for hook in hooks:
            hook.remove()

    def _keep(self, into: list):
        return lambda _module, given, made: into.append((given, made))


def rows_of(ids: torch.Tensor) -> Rows:
    return arrange(ids, None, None)


@CONFIGS
def test_every_block_and_every_part_of_it_is_transformers(config):
    theirs, ids = reference(config), tokens(config, LENGTH)
    model, seen, rows = ours_from(theirs, config), Seen(theirs, ids), rows_of(ids)
    for n, block in enumerate(model.blocks):
        radians = model.radians(config.layer_kinds[n], ids.device)
        (x,), (wanted, _) = seen.attention[n]
        assert close(block.attention(x, rows, radians), wanted, 1e-5), f"attention {n}"
        x, wanted = seen.mlp[n][0][0], seen.mlp[n][1]
        assert close(block.mlp(x, ids), wanted, 1e-5), f"experts {n}"
        (streams,), wanted = seen.layers[n]
        assert close(block(streams, rows, radians), wanted, 1e-5), f"block {n}"
    assert len(seen.layers) == config.num_blocks


@CONFIGS
def test_every_router_chooses_the_same_experts_with_the_same_weights(config):
    theirs, ids = reference(config), tokens(config, LENGTH)
    model, seen = ours_from(theirs, config), Seen(theirs, ids)
    for n, block in enumerate(model.blocks):
        _, weights, indices = seen.routing[n][1]
        found, strengths = block.mlp.router(seen.mlp[n][0][0], ids)
        order, wanted_order = found.flatten(0, 1).argsort(dim=-1), indices.argsort(dim=-1)
        assert torch.equal(found.flatten(0, 1).gather(1, order), indices.gather(1, wanted_order)), f"block {n}"
        assert max_error(strengths.flatten(0, 1).gather(1, order), weights.gather(1, wanted_order)) <= 1e-5, (
            f"block {n}"
        )


@pytest.mark.parametrize("config", [FOUR, ODD], ids=["four", "odd"])
def test_every_indexer_chooses_the_same_entries_and_leaves_some_out(config):
    theirs, ids = reference(config), tokens(config, LENGTH)
    model, seen = ours_from(theirs, config), Seen(theirs, ids)
    kinds = [kind for kind in config.layer_kinds if kind != WINDOW]
    blocks = [block for block, kind in zip(model.blocks, config.layer_kinds, strict=True) if kind != WINDOW]
    for block, kind, (given, (_, bias)) in zip(blocks, kinds, seen.bias, strict=True):
        if kind == SPARSE:
            radians = model.radians(SPARSE, ids.device)
            chosen = block.attention.indexer(given[0], given[1], rows_of(ids), radians)
            count = bias.shape[-1]
            ours = torch.zeros(*chosen.shape[:2], count + 1).scatter(-1, chosen % (count + 1), 1.0)[..., :-1]
            assert torch.equal(ours == 1, bias[:, 0] == 0)
            assert (ours.sum(dim=-1)[:, -1] == config.index_k).all()
            assert count > 2 * config.index_k
    everything = replace(config, index_k=99)
    dense = ours_from(reference(everything), everything)
    assert max_error(dense(ids), model(ids)) > 1e-2


@CONFIGS
@pytest.mark.parametrize("cuts", [[1] * LENGTH, [LENGTH], [7, 1, 1, 20, 4]], ids=["1", "33", "5"])
def test_any_split_with_a_cache_is_the_whole_and_takes_the_promised_bytes(config, cuts):
    model = ours_from(reference(config), config)
    ids, cache = tokens(config, LENGTH), model.new_cache()
    parts = [model(part, cache) for part in ids.split(cuts, dim=1)]
    assert max_error(torch.cat(parts, dim=1), model(ids)) <= 1e-4
    assert cache.length == LENGTH
    assert cache.bytes() == 2 * 4 * sum(promised(config, kind, LENGTH) for kind in config.layer_kinds)


def promised(config: Config, kind: str, length: int) -> int:
    """Numbers per row: a constant for the window and the open entries, and one entry for each ``ratio`` tokens."""
    window = (config.window - 1) * config.head_dim
    if kind == HEAVY:
        ratio = config.heavy_ratio
        return window + length // ratio * config.head_dim + (ratio - 1) * 2 * config.head_dim
    if kind == SPARSE:
        ratio, width = config.sparse_ratio, config.head_dim + config.index_dim
        return window + length // ratio * width + (2 * ratio - 1) * 4 * width
    return window


def test_flash_keeps_seven_kilobytes_a_token():
    flash = from_hf(published_flash())
    grown = [promised(flash, kind, 128_000) - promised(flash, kind, 0) for kind in flash.layer_kinds]
    assert sum(grown) * 2 / 128_000 == 6880  # bytes in bfloat16


@CONFIGS
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_a_padded_row_gets_what_transformers_gives_it_unpadded(config, left):
    """transformers 5.23 compresses padding along with the text; a row of ours never sees it, on either side."""
    theirs, lengths = reference(config), [23, 9, 2]
    model, ids, more = ours_from(theirs, config), tokens(config, 23, batch=3), tokens(config, 10, batch=3).flip(1)
    columns, wanted = torch.arange(23), torch.tensor(lengths)[:, None]
    mask = (columns >= 23 - wanted) if left else (columns < wanted)
    cache = model.new_cache()
    first, then = model(ids, cache, mask), [model(more[:, t : t + 1], cache) for t in range(10)]
    for row in range(3):
        alone = theirs(torch.cat([ids[row][mask[row]], more[row]])[None]).logits[0]
        together = torch.cat([first[row][mask[row]], *[step[row] for step in then]])
        assert max_error(together, alone) <= 1e-4, f"row {row}"
        assert max_error(model(ids, mask=mask)[row][mask[row]], alone[: lengths[row]]) <= 1e-4, f"row {row}"
    assert cache.lengths.tolist() == [33, 19, 12]


@CONFIGS
def test_a_padded_batch_may_be_read_in_pieces(config):
    model, lengths = ours_from(reference(config), config), [[9, 3], [1, 14], [12, 1]]
    cache, texts = model.new_cache(), [[], []]
    for call, count in enumerate(lengths):
        ids = (tokens(config, max(count)) + call) % config.vocab_size
        mask = torch.arange(max(count)) < torch.tensor(count)[:, None]
        found = model(ids, cache, mask)
        for row in range(2):
            texts[row].append(ids[row][mask[row]])
            alone = model(torch.cat(texts[row])[None])[0, -count[row] :]
            assert max_error(found[row][mask[row]], alone) <= 1e-4, (call, row)


@CONFIGS
def test_a_batch_changes_nothing_and_no_position_sees_a_later_one(config):
    model, ids = ours_from(reference(config), config), tokens(config, LENGTH)
    assert max_error(model(ids[1:]), model(ids)[1:]) <= 1e-5
    for position in (1, 16, 31):
        assert causality_probe(model, ids[:1], position) <= 1e-5  # experts get other numbers of rows: rounding


def test_in_bfloat16_it_is_near_the_same_model_in_float32():
    wide = ours_from(reference(FOUR), FOUR)
    ids, narrow = tokens(FOUR, LENGTH), ours_from(reference(FOUR), FOUR).bfloat16()
    logits = narrow(ids)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert relative_rms(logits[:, :4].float(), wide(ids)[:, :4]) < 0.2  # later on another expert may be chosen


def test_gradients_are_transformers():
    theirs, ids = reference(FOUR), tokens(FOUR, 33)
    model, direction = ours_from(theirs, FOUR), torch.randn(2, 33, 61, generator=torch.Generator().manual_seed(3))
    theirs.zero_grad()
    (model(ids) * direction).sum().backward()
    (theirs(ids).logits * direction).sum().backward()
    wanted = stored_gradients(theirs)
    for name, weight in model.named_parameters():
        if "indexer" in name:
            assert weight.grad is None, name  # its choice is an integer
        else:
            assert weight.grad.isfinite().all(), name
            assert close(weight.grad, taken(wanted, name), 1e-4), name


def stored_gradients(theirs: DeepseekV4ForCausalLM) -> dict[str, torch.Tensor]:
    found = {name: weight if weight.grad is None else weight.grad for name, weight in theirs.named_parameters()}
    return revert_weight_conversion(theirs, found)


@pytest.mark.parametrize("mistake", ["hash table", "sink", "balancing bias", "order of tokens in an entry", "YaRN"])
def test_a_mistake_is_seen(mistake):
    theirs, ids = reference(FOUR), tokens(FOUR, LENGTH)
    model = ours_from(theirs, FOUR)
    if mistake == "hash table":
        model.blocks[0].mlp.router.table.copy_(model.blocks[0].mlp.router.table.flip(0))
    if mistake == "sink":
        model.blocks[1].attention.sinks.fill_(-1e9)
    if mistake == "balancing bias":
        model.blocks[3].mlp.router.bias.zero_()
    if mistake == "order of tokens in an entry":
        bias = model.blocks[2].attention.compressor.bias
        bias.copy_(bias.roll(16, dims=1))  # the two series of an overlapping compressor, the one for the other
    if mistake == "YaRN":
        model.config = replace(FOUR, yarn=None)
    assert max_error(model(ids), theirs(ids).logits) > 1e-3


@CONFIGS
def test_names_map_one_to_one_onto_the_tensors_that_transformers_writes(config):
    theirs, model = reference(config), DeepSeekV4(config)
    names = []
    for name in model.state_dict():
        published = published_name(name)
        count = config.num_experts if "{e}" in published else 1
        names += [part for parts in names_of_experts(published, count) for part in parts]
    assert len(set(names)) == len(names)
    assert set(names) == set(stored(theirs)) - ({"head.weight"} if config.tied else set())


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"no parameter 'blocks.0.mlp.gate'"):
        published_name("blocks.0.mlp.gate")
    assert published_name("blocks.12.mlp.experts.gate_up") == "model.layers.12.ffn.experts.{e}.{w1,w3}.weight"
    assert "norm.weight" in NAMES


@CONFIGS
def test_the_config_is_read_as_transformers_writes_it(config):
    assert from_hf(reference(config).config.to_dict()) == config
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


def published_flash() -> dict:
    folder = Path(deepseek_v4.__file__).parents[2] / "facts" / "configs"
    return json.loads((folder / "deepseek_v4-flash.json").read_text("utf-8"))["config"]


def test_the_release_spells_its_schedules_in_numbers():
    flash = from_hf(published_flash())
    assert flash.layer_kinds == FLASH
    assert flash.router_kinds == (HASHED,) * 3 + (LEARNED,) * 40
    assert (flash.head_dim, flash.rotary_dim, flash.sparse_ratio, flash.heavy_ratio) == (512, 64, 4, 128)
    assert (FLASH.count(SPARSE), FLASH.count(HEAVY), FLASH.count(WINDOW)) == (21, 20, 2)
    assert (len(PRO), PRO.count(SPARSE), PRO.count(HEAVY)) == (61, 30, 31)


def test_flash_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = DeepSeekV4(from_hf(published_flash()))
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e9) == 284


def test_the_release_has_its_yarn_flat():
    rope = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}
    found = from_hf({**published_flash(), "rope_scaling": rope, "rope_theta": 10000, "compress_rope_theta": 160000})
    assert found.yarn == Yarn(16, 65536, 32, 1, given=1.0)
    assert (found.rope_theta, found.entry_theta) == (10000, 160000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"layer_types": None}, "lacks layer_types"),
        ({"mlp_layer_types": None}, "lacks mlp_layer_types"),
        ({"layer_types": ["full_attention"] * 4}, "layer_types is .*; 4 of sliding_attention, compressed"),
        ({"mlp_layer_types": [HASHED]}, "mlp_layer_types is .*; 4 of hash_moe, moe are needed"),
        ({"compress_ratios": [0, 4, 8, 128]}, r"\[8\] in compress_ratios; allowed are 0, 4, 128"),
        ({"scoring_func": "sigmoid"}, "scoring_func='sigmoid'; this DeepSeek-V4 has only 'sqrtsoftplus'"),
        ({"n_shared_experts": 2}, "n_shared_experts=2"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"o_groups": 3}, "4 heads do not make 3 even groups"),
        (
            {"qk_rope_head_dim": 14},
            "turns 8 and 14 coordinates of a head, by qk_rope_head_dim and partial_rotary_factor",
        ),
        (
            {"qk_rope_head_dim": 14, "partial_rotary_factor": 14 / 16, "rope_parameters": {}},
            "rotary part 14 of heads 16 and 12 wide",
        ),
        (
            {"rope_parameters": {"rope_type": "linear"}},
            "rope_type='linear'; this DeepSeek-V4 has only default and yarn",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "attention_factor": 1.3}}, "attention_factor=1.3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "lacks factor, original_max_position_embeddings"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf({**to_hf(FOUR), **changes})
