"""Whole models answer the same in every form that they run in, every row of the table is used, the rest is refused.

Triton's kernels run in its interpreter here, at tiny sizes, in float32 beside the same model in float64.
"""

import copy
from pathlib import Path

import pytest
import torch
from support.kernel_tests import WHERE, needs_triton
from torch import nn

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers import use as use_file
from helpers.checkpoints import load
from helpers.compare import assert_close, randn, relative_rms
from helpers.decoding.compiled import Compiled
from helpers.functions import Layer, declared, exchange
from helpers.hooks import hooked
from helpers.kernels.implementations import KERNELS, READABLE, TABLE
from helpers.kernels.launch import launched
from helpers.layers import block_sparse
from helpers.layers.attention import Attention
from helpers.layers.block_sparse import BlockSparse
from helpers.layers.delta import GatedDeltaNet, additive_rule
from helpers.layers.norm import RMSNorm
from helpers.models.qwen3 import Config, Qwen3
from helpers.moe.experts import Experts
from helpers.quant.backends import DYNAMIC
from helpers.quant.cpu import CPU
from helpers.quant.linear import QuantisedEmbedding, QuantisedLinear
from helpers.quant.model import products, quantise
from helpers.quant.parts import all_but
from helpers.use import FORMS, in_use, use, using

pytestmark = [needs_triton, pytest.mark.usefixtures("no_gradients")]
NEAR = 2e-5  # relative RMS in float32, after a few layers whose every number is random
NORMS, SPARSE, EXPERTS = {"_rms_norm", "_add_rms_norm"}, {"_scores", "_select", "_walk"}, {"_hidden", "_made"}
DELTA = {"_within", "_across", "_flash"}
LAUNCHED = {  # by a prompt and a step of it
    "qwen3": {"_flash"} | NORMS,
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": DELTA | EXPERTS,
    "deepseek_v3": {"_walk"} | EXPERTS | NORMS,
    "deepseek_v32": SPARSE | EXPERTS | NORMS,
    "glm_moe_dsa": SPARSE | EXPERTS | NORMS,
    "deepseek_v4": {"_scores", "_select", "_rms_norm"} | EXPERTS,
}
LENGTH = 22  # more tokens than any of them chooses
TWICE = ("qwen3_5", "qwen3_5_moe", "kimi_k25")  # the same layers again, with images


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {}


def saved(family: str, folders: dict[str, Path], factory: pytest.TempPathFactory) -> Path:
    if family not in folders:
        folders[family] = factory.mktemp(family)
        runs.save_random(family, folders[family])
    return folders[family]


def small(width: int = 32) -> Qwen3:
    torch.manual_seed(0)
    return Qwen3(Config(97, width, 1, 4, 2, 16, 64)).eval().to(WHERE)


def by_block(model: nn.Module, *pieces: torch.Tensor) -> list[torch.Tensor]:
    """What every block gives, and the logits, for a text in pieces; its cache is asked where there are several."""
    made, cache = [[] for _ in [*model.blocks, model]], model.new_cache() if len(pieces) > 1 else None
    note = lambda n: lambda _block, _given, out: made[n].append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
    with hooked(part.register_forward_hook(note(n)) for n, part in enumerate([*model.blocks, model])):
        for ids in pieces:
            model(ids, cache=cache)
    return [torch.cat(parts, dim=1) for parts in made]


def test_every_family_is_tried_here():
    assert set(LAUNCHED) | set(TWICE) == set(CONFIGS)


@pytest.mark.parametrize("family", LAUNCHED)
def test_a_family_answers_the_same_by_kernels_block_by_block_and_step_by_step(family, folders, tmp_path_factory):
    folder = saved(family, folders, tmp_path_factory)
    exact, model = load(folder, torch.float64), load(folder, torch.float32, WHERE)
    ids = torch.stack(runs.prompts(family, runs.TEXT).rows)[:, 0, :LENGTH]
    with using(model, "triton"), launched() as count:
        answers = by_block(model, *ids.to(WHERE).split(LENGTH - 1, dim=1))
    for ours, right in zip(answers, by_block(exact, ids), strict=True):
        assert relative_rms(ours.double().cpu(), right) <= NEAR
    assert set(count) >= LAUNCHED[family]
    assert all(row[2] == "readable" for row in in_use(model).rows)


def test_every_row_of_the_table_is_a_function_of_some_layer_and_leads_back():
    kinds = [kind for kind in layers_of(Layer) if kind.functions]
    assert {function for kind in kinds for function in kind.functions.values()} >= set(KERNELS)
    assert len(KERNELS) == len(READABLE) == len(TABLE)


def layers_of(kind: type) -> list[type]:
    return [one for sub in kind.__subclasses__() for one in (sub, *layers_of(sub)) if one.__module__[:8] == "helpers."]


def test_a_form_that_computes_something_else_would_be_seen(monkeypatch):
    model, ids = small(), torch.arange(9)[None].to(WHERE)
    right = model(ids)
    row = KERNELS[Attention.functions["attend_causal"]]
    monkeypatch.setitem(KERNELS, row.readable, type(row)(row.readable, lambda *given: 1.01 * row.kernel(*given)))
    use(model, "triton")
    assert relative_rms(model(ids), right) > 10 * NEAR


def test_block_sparse_attention_runs_by_its_kernel_and_its_norm_by_the_one_that_adds():
    layer = BlockSparse(16, 2).eval()
    parts = [randn(2, 40, heads, 16, seed=heads).to(WHERE) for heads in (4, 2, 2)]
    right = layer(*parts)
    with using(layer, "triton"), launched() as count:
        assert_close(layer(*parts), right, 1e-5, "attention over blocks")
    assert dict(count) == {"_blocks": 1}
    norm, x, residual = (
        RMSNorm(24, 1e-6).eval().to(WHERE),
        randn(3, 24, seed=1).to(WHERE),
        randn(3, 24, seed=2).to(WHERE),
    )
    normed, added = norm.add(x, residual)
    assert torch.equal(added, residual + x)
    assert torch.equal(normed, norm(added))
    with using(norm, "triton"), launched() as count:
        for ours, readable in zip(norm.add(x, residual), (normed, added), strict=True):
            assert_close(ours, readable, 1e-6, "norm of a sum")
    assert dict(count) == {"_add_rms_norm": 1}


def test_a_report_says_what_runs_on_what():
    model = use(small(), "triton")
    assert str(in_use(model)).splitlines() == [
        "layer      computes       by      times",
        "RMSNorm    rms_norm       triton  5",
        "RMSNorm    add_rms_norm   triton  5",
        "Attention  attend_causal  triton  1",
    ]
    assert use(model, "readable") is model
    assert {row[2] for row in in_use(model).rows} == {"readable"}


def test_a_function_without_a_kernel_stays_in_every_form():
    layer = GatedDeltaNet(16, 2, 2, 8, 8, 4, 1e-6).eval()
    exchange(layer, {"one_token": additive_rule})
    use(layer, "triton")
    assert layer.functions["one_token"] is additive_rule
    assert layer.functions["many_tokens"] in READABLE
    use(layer, "readable")
    assert layer.functions["one_token"] is additive_rule
    assert layer.functions["many_tokens"] is GatedDeltaNet.functions["many_tokens"]


def test_within_a_block_a_model_runs_in_a_form_and_then_in_the_one_before():
    model, ids = use(small(), "triton"), torch.arange(9)[None].to(WHERE)
    with using(model, "readable") as same, launched() as count:
        assert same is model
        model(ids)
    assert not count
    with pytest.raises(IndexError), using(model, "readable"):
        model.blocks[9]
    with launched() as count:
        model(ids)
    assert count


# Packed matrices.


@pytest.mark.parametrize("name", ["int4", "nf4", "fp8", "int8", DYNAMIC])
def test_a_packed_model_is_multiplied_by_kernels_and_holds_the_same_codes(name):
    model, ids = small(width=64), torch.arange(5)[None].to(WHERE)
    quantise(model, name, ways={})
    before, right = {at: packed.encoded().parts for at, packed, _ in products(model)}, model(ids)
    use(model, "triton")
    with launched() as count:
        answer = model(ids)
    assert count["_eight_bit" if name == DYNAMIC else "_packed_linear"] == len(before)
    assert relative_rms(answer, right) <= 1e-4
    for at, packed, _ in products(model):
        for part, tensor in packed.encoded().parts.items():
            assert torch.equal(tensor.view(torch.uint8), before[at][part].view(torch.uint8))
    use(model, "readable")
    assert torch.equal(model(ids), right)
    assert ("Packed", name, "readable", len(before)) in in_use(model).rows


@pytest.mark.parametrize("name", ["int4", "fp4"])
def test_packed_experts_run_by_two_launches_where_a_kernel_reads_their_format(name):
    torch.manual_seed(0)
    model = nn.ModuleList([Experts(4, 64, 64)]).eval().to(WHERE).requires_grad_(False)
    x, indices = randn(5, 64, seed=1).to(WHERE), randn(5, 4, seed=2).topk(2).indices.to(WHERE)
    weights = randn(5, 2, seed=3).to(WHERE)
    quantise(nn.ModuleDict({"experts": model}), name, ways={})
    right = model[0](x, indices, weights)
    with using(model, "triton"), launched() as count:
        assert relative_rms(model[0](x, indices, weights), right) <= 1e-4
    assert dict(count) == ({"_hidden": 1, "_made": 1} if name == "int4" else {})


@pytest.mark.skipif(WHERE != "cpu", reason="the kernels of a CPU")
def test_the_kernels_of_a_cpu_are_a_form_of_packed_matrices():
    torch.manual_seed(0)
    model = Qwen3(Config(97, 64, 1, 4, 2, 16, 64)).eval().bfloat16()
    quantise(model, "int8")
    assert ("Packed", "int8", "cpu", 7) in in_use(model).rows
    assert ("Packed", "int8", "cpu", 7) in in_use(copy.deepcopy(model)).rows
    with using(model, "readable"):
        assert ("Packed", "int8", "readable", 7) in in_use(model).rows
        with using(model, "cpu"):
            assert all(packed.way is CPU["int8"] for _, packed, _ in products(model))
        assert ("Packed", "int8", "readable", 7) in in_use(model).rows
    assert ("Packed", "int8", "cpu", 7) in in_use(model).rows


def test_a_packed_table_is_looked_up_and_no_product():
    model = nn.Sequential(
        QuantisedEmbedding.of(nn.Embedding(4, 64), "int8"), QuantisedLinear.of(nn.Linear(64, 8), "int8")
    )
    assert [name for name, _, _ in products(model)] == ["1.packed"]


# What cannot be.


def compiled(model: nn.Module) -> Compiled:
    return use(model, "compiled", capacity=8)


@pytest.fixture
def _no_compiler(monkeypatch):
    """What is compiled is tested elsewhere, in a process without pytest's checks."""
    monkeypatch.setattr("helpers.decoding.compiled.can_compile", lambda: False)


@pytest.mark.usefixtures("_no_compiler")
def test_compiled_steps_are_a_form_and_a_way_back():
    model = small()
    fast = use(model, "compiled", capacity=8)
    assert isinstance(fast, Compiled)
    assert fast.capacity == 8
    assert in_use(fast).rows[0] == ("steps", "one token", "compiled", 1)
    assert use(fast, "readable") is model
    with using(model, "compiled", capacity=9) as fast:
        assert fast.capacity == 9


def with_experts(folder: Path) -> nn.Module:
    model = load(folder, torch.float32)
    quantise(model, "int8", keep=all_but("routed experts"))
    return model


class Wide(Layer):
    functions = declared(rms_norm=RMSNorm.functions["rms_norm"])


REFUSED = {
    "an unknown form": (
        lambda: use(small(), "cuda"),
        "no form 'cuda'; a model runs in one of readable, cpu, triton, comp",
    ),
    "compiled without room": (lambda: use(small(), "compiled"), "capacity is None for the form 'compiled'"),
    "room without compiled": (lambda: use(small(), "triton", 9), "capacity is 9 for the form 'triton'"),
    "training": (lambda: use(small().train(), "triton"), "in training, and kernels have no gradient: call model.eval"),
    "float64": (
        lambda: use(small().double(), "triton"),
        "embedding.weight is torch.float64; kernels here take torch.fl",
    ),
    "a wide norm": (lambda: use(RMSNorm(65537, 1e-6).eval(), "triton"), "RMSNorm has rows of 65537 numbers; 65536 fit"),
    "wide heads": (
        lambda: use(nn.ModuleList([GatedDeltaNet(8, 1, 1, 512, 8, 4, 1e-6)]).eval(), "triton"),
        "0 has heads of 512 numbers; 256 fit one program",
    ),
    "blocks": (lambda: use(BlockSparse(48, 2).eval(), "triton"), "blocks of 48 positions; a tile has 16, 32, 64"),
    "nothing to do": (
        lambda: use(nn.Linear(4, 4).eval(), "triton"),
        "no packed matrix of this Linear has a kernel in 'tr",
    ),
    "nothing packed": (lambda: use(small(), "cpu"), "of this Qwen3 has a kernel in 'cpu'"),
    "kernels compiled": (lambda: compiled(use(small(), "triton")), r"use\(model, 'readable'\) first"),
    "compiled, then kernels": (lambda: use(compiled(small()), "triton"), r"use\(model, 'readable'\) before 'triton'"),
    "compiled twice": (lambda: compiled(compiled(small())), r"use\(model, 'readable'\) before 'compiled'"),
}


@pytest.mark.usefixtures("_no_compiler")
@pytest.mark.parametrize("what", REFUSED)
def test_a_form_that_cannot_be_is_refused_with_a_word(what):
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_packed_experts_are_not_compiled(folders, tmp_path_factory):
    model = with_experts(saved("deepseek_v3", folders, tmp_path_factory))
    with pytest.raises(ValueError, match="QuantisedExperts cannot be compiled"):
        use(model, "compiled", capacity=8)


def test_without_a_gpu_and_without_the_interpreter_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(use_file, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"the model is on .*; Triton's kernels run on an NVIDIA GPU, or interpreted"):
        use(small(), "triton")
    with pytest.raises(ValueError, match="the model is on no GPU"):
        use(BlockSparse(16, 2).eval(), "triton")
    monkeypatch.setattr(use_file, "triton", None)
    with pytest.raises(ValueError, match="no Triton for this system"):
        use(small(), "triton")


@pytest.mark.skipif(WHERE != "cpu", reason="the interpreter's limit")
def test_the_interpreter_refuses_bfloat16():
    with pytest.raises(ValueError, match=r"embedding.weight is torch.bfloat16; .* torch.float32, torch.float16$"):
        use(small().bfloat16(), "triton")


def test_what_is_refused_has_changed_nothing():
    model = nn.Sequential(small(), RMSNorm(65537, 1e-6).to(WHERE)).eval()
    with pytest.raises(ValueError, match="1 has rows of 65537 numbers"):
        use(model, "triton")
    assert not [part for part in model.modules() if "functions" in vars(part)]


def test_where_a_gradient_is_wanted_a_kernel_leaves_it_to_the_readable_function():
    model, ids = small(), torch.arange(6)[None].to(WHERE)
    use(model, "triton")
    with torch.enable_grad(), launched() as count:
        model(ids).sum().backward()
    assert set(count) == {"_rms_norm", "_rms_norm_backward"}  # which has a gradient of its own
    ours = model.blocks[0].attention.query.weight.grad.clone()
    model.zero_grad()
    use(model, "readable")
    with torch.enable_grad():
        model(ids).sum().backward()
    assert relative_rms(ours, model.blocks[0].attention.query.weight.grad) <= 1e-5


def test_every_form_is_tried_here():
    assert FORMS == ("readable", "cpu", "triton", "compiled")
    assert block_sparse.attend_blocks in KERNELS
