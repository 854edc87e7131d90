"""One call packs a model of every family: equal to the model whose weights are the decoded ones, counted, refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from course.parity import runs
from course.parity.configs import CONFIGS
from course.parity.runs import DRAFT, LENGTH, TAIL, TEXT, call, prompts
from helpers.checkpoints import load
from helpers.compare import max_error, tolerance
from helpers.generate import generate
from helpers.layers import mla
from helpers.models.components import PARTS, REST, part_of
from helpers.moe.experts import Experts
from helpers.quant.audit import stored_by_part
from helpers.quant.backends import DYNAMIC, as_read, encoded_as
from helpers.quant.formats.named import format_of
from helpers.quant.linear import Packed, QuantisedEmbedding, QuantisedLinear
from helpers.quant.model import KEPT, quantise
from helpers.quant.parts import all_but, layers_of, weights_of

SAME = 1e-9  # float64 against itself
EVERYTHING = []  # to keep
TASKS = [(family, task) for family in CONFIGS for task in runs.tasks(family)]
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for family in CONFIGS:
        made[family] = tmp_path_factory.mktemp(family)
        runs.save_random(family, made[family])
    return made


def through(model: nn.Module, name: str, keep=EVERYTHING) -> nn.Module:
    """The readable oracle: every weight becomes what the format leaves of it, one matrix after the other."""
    for at, layer in layers_of(model):
        for weight in weights_of(layer) if part_of(at) not in keep else []:
            for matrix in weight if weight.dim() == 3 else [weight]:
                matrix.copy_(encoded_as(matrix, name, wrap=True).decode(matrix.dtype).view(matrix.shape))
    return model


def logits(model: nn.Module, family: str, task: str, cuts=(LENGTH + TAIL,)) -> torch.Tensor:
    given = prompts(family, task)
    columns, cached = torch.stack(given.rows), len(cuts) > 1
    memory = model.new_cache() if cached else None
    drafts = model.new_draft_cache() if cached and task == DRAFT else None
    parts = [
        call(model, piece, torch.ones_like(piece[:, 0], dtype=torch.bool), given.pictures, task, memory, drafts)
        for piece in columns.split(cuts, dim=2)
    ]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("family", "task"), TASKS)
@pytest.mark.parametrize("name", ["int4", "fp8"])
def test_a_packed_model_of_every_family_is_the_one_of_the_decoded_weights(folders, family, task, name):
    plain, packed = (load(folders[family], torch.float64) for _ in range(2))
    before = logits(plain, family, task)
    quantise(packed, name, keep=EVERYTHING, wrap=True)
    wanted, found = logits(through(plain, name), family, task), logits(packed, family, task)
    assert max_error(found, wanted) <= SAME
    assert max_error(found, before) > 1e-3
    assert not list(layers_of(packed))  # nothing was forgotten


@pytest.mark.parametrize("family", CONFIGS)
def test_a_packed_model_reads_with_a_cache_and_writes_what_it_would_without(folders, family):
    model = load(folders[family], torch.float64)
    quantise(model, "int4", keep=["router", "head"], wrap=True)
    assert max_error(logits(model, family, TEXT, (LENGTH, *(1,) * TAIL)), logits(model, family, TEXT)) <= SAME
    start = prompts(family, TEXT).rows[0][None, 0, :9]
    written = generate(model, start, 3)
    for end in range(9, 12):  # each token is the most likely one after a reading without a cache
        assert int(written[0, end]) == int(model(written[:, :end])[0, -1].argmax())


@pytest.mark.parametrize("name", ["int8", "nf4", "nvfp4", "mxfp4", "int8-tensor", "nf4-double"])
def test_every_format_packs_a_whole_model(folders, name):
    plain, packed = (load(folders["glm_moe_dsa"], torch.float64) for _ in range(2))
    quantise(packed, name, keep=["router", "indexer"], wrap=True)
    assert max_error(packed(IDS), through(plain, name, ["router", "indexer"])(IDS)) <= SAME


def test_a_model_that_rounds_its_tokens_is_the_one_whose_layers_are_given_rounded_tokens(folders):
    plain, packed = (load(folders["qwen3"], torch.float64) for _ in range(2))
    quantise(packed, DYNAMIC)
    through(plain, DYNAMIC, KEPT)
    without = plain(IDS)
    for at, layer in layers_of(plain):
        if part_of(at) not in KEPT:
            layer.register_forward_pre_hook(
                lambda _layer, given: (as_read(given[0].flatten(0, -2), DYNAMIC).view(given[0].shape),)
            )
    assert max_error(packed(IDS), plain(IDS)) <= 1e-4  # products of INT8 are added up in float32
    assert max_error(without, plain(IDS)) > 1e-2


IDS = torch.randint(199, (2, 30), generator=torch.Generator().manual_seed(3))


def test_latents_are_absorbed_into_matrices_that_are_packed(folders, monkeypatch):
    """MLA reads the weight of kv_b itself; both of its ways must see the decoded one."""
    model = load(folders["deepseek_v3"], torch.float64)
    quantise(model, "int8", keep=["router"])
    assert isinstance(model.blocks[0].attention.kv_b, QuantisedLinear)
    answers = []
    for pays in (True, False):
        monkeypatch.setattr(mla, "absorbing_pays", lambda *sizes, pays=pays: pays)
        answers.append(model(IDS))
    assert max_error(*answers) <= SAME


def test_a_tied_embedding_is_packed_once_and_read_both_ways():
    model, kept = load("zoo:tiny-qwen3"), load("zoo:tiny-qwen3")
    ids = IDS % model.config.vocab_size
    quantise(model, "int8", keep=EVERYTHING)
    assert isinstance(model.embedding, QuantisedEmbedding)
    assert model.head is None
    oracle = through(load("zoo:tiny-qwen3"), "int8")
    assert max_error(model(ids), oracle(ids)) <= 1e-4
    quantise(kept, "int8", keep=["head"])  # which is the embedding
    assert isinstance(kept.embedding, nn.Embedding)


def test_bfloat16_with_kernels_stays_near_bfloat16_without():
    fast, slow = (load("zoo:tiny-qwen3").bfloat16() for _ in range(2))
    quantise(fast, "int4", keep=["embedding"])
    quantise(slow, "int4", keep=["embedding"], ways={})
    ways = {id(module.way) for module in fast.modules() if isinstance(module, Packed)}
    assert len(ways) == 1
    ids = torch.arange(8)[None]
    assert (fast(ids) - slow(ids)).norm() / slow(ids).norm() < 4 * tolerance(torch.bfloat16, 6)


def test_kept_parts_stay_and_everything_else_is_packed(folders):
    model = load(folders["deepseek_v32"])
    report = quantise(model, "int8", keep=["router", "head", "indexer"])
    assert {part_of(at) for at, _ in layers_of(model)} == {"router", "head", "indexer"}
    for part, held in report.after.items():
        kept = part in ("router", "head", "indexer", REST)
        assert held.format == ("float32" if kept else "int8"), part
        assert (held.bytes == report.before[part].bytes) == kept
    assert quantise(load(folders["deepseek_v32"]), "int8").after["embedding"].format == "float32"
    assert {"router", "head", "embedding", "vision"} == set(KEPT)


def test_parts_can_have_different_formats(folders):
    model = load(folders["qwen3_5_moe_text"])
    quantise(model, "int4", keep=all_but("routed experts"), wrap=True)
    assert {part for part, held in stored_by_part(model).items() if "int4" in held.format} == {"routed experts"}
    report = quantise(model, "int8")
    assert report.after["routed experts"].format == "int4"
    assert report.after["attention"].format == report.after["delta"].format == "int8"


def test_a_single_layer_can_be_kept(folders):
    model = load(folders["qwen3"])
    quantise(model, "int8", keep=["blocks.1.mlp.down", "head", "embedding"])
    assert [at for at, _ in layers_of(model)] == ["embedding", "blocks.1.mlp.down", "head"]


def test_the_report_counts_the_bytes_that_are_there(folders):
    model = load(folders["kimi_k25"])
    report = quantise(model, "nf4", keep=["router", "head"], wrap=True)
    there = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    assert report.bytes_after == there < report.bytes_before / 4
    assert report.bytes_before == sum(4 * weight.numel() for weight in load(folders["kimi_k25"]).parameters()) + sum(
        buffer.nbytes for buffer in load(folders["kimi_k25"]).buffers()
    )
    assert report.after["routed experts"].bits == 4.5
    assert 0.9 < report.share_packed < 1


def test_the_report_prints_a_table():
    said = str(quantise(load("zoo:tiny-qwen3"), "int4")).splitlines()
    assert said[0].split() == ["part", "numbers", "before", "after", "bits", "per", "number", "held", "as"]
    assert said[1].split() == ["dense", "FFN", "737", "k", "2.95", "MB", "415", "kB", "4.50", "int4"]
    assert [line.split()[0] for line in said[1:]] == ["dense", "attention", "embedding", "norms", "all"]
    assert len({line.rindex(line.split()[-1]) for line in said[1:-1]}) == 1  # a column stands under its name


def test_every_matrix_of_every_family_has_a_part(folders):
    found = set()
    for folder in folders.values():
        model = load(folder)
        names = {name for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Embedding | Experts)}
        assert names <= {at for at, _ in layers_of(model)}
        found |= {part_of(at) for at, _ in layers_of(model)}
    assert found == set(PARTS)


REFUSED = {
    "there is no format 'int5'; known are bf16, int8": dict(name="int5"),
    "there is no part 'routers'; there are vision, embedding, head, router": dict(keep=["routers"]),
    "keep is a list of parts": dict(keep="router"),
    "'int4' needs widths that 32 divides, and blocks.0.attention.q_b has 24 columns": dict(),
    "nothing is left to pack": dict(name="int8", keep=list(PARTS)),
    "2 of 1536 numbers are NaN or infinite": dict(name="int8", wrong=[float("nan"), float("inf")]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_packed_is_refused_before_anything_is_changed(folders, message):
    model, asked = load(folders["deepseek_v3"]), {"name": "int4", "keep": ["router"], **REFUSED[message]}
    for n, number in enumerate(asked.pop("wrong", [])):
        model.blocks[2].mlp.shared.down.weight.view(-1)[n] = number
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=message):
        quantise(model, **asked)
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_a_matrix_that_no_group_cuts_evenly_is_refused_even_where_groups_wrap():
    with pytest.raises(
        ValueError, match=r"needs matrices that 128 divides, and blocks.0.delta.beta .*: keep \['delta'\]"
    ):
        quantise(load("zoo:tiny-qwen3_5-moe"), "int8-group", wrap=True)


def test_a_model_without_numbers_is_refused(folders):
    with pytest.raises(ValueError, match="on the meta device"):
        quantise(load(folders["qwen3"]).to("meta"), "int8")


def test_a_model_that_is_packed_already_has_nothing_left(folders):
    model = load(folders["qwen3"])
    quantise(model, "int8")
    with pytest.raises(ValueError, match="nothing is left to pack"):
        quantise(model, "int4")
    assert format_of("int8").divides == 1
