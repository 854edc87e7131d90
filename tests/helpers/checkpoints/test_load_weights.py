"""Stacked experts: many tensors become one parameter, by a tiny made-up family."""

import weakref

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.checkpoints import CheckpointError, packed
from helpers.checkpoints.folder import SINGLE
from helpers.checkpoints.load_weights import fill_model
from helpers.checkpoints.packed import Files

E, F, D = 5, 3, 4
NAMES = {
    "embedding.weight": "embed.weight",
    "gate_up": "mlp.experts.{e}.{gate_proj,up_proj}.weight",
    "down": "mlp.experts.{e}.down_proj.weight",
    "bias": "mlp.gate.bias",
    "table": "mlp.gate.table",
    "head.weight": "lm_head.weight",
}


class Made(nn.Module):
    """An embedding that is the head, stacked experts, a bias that no gradient trains, and a table of whole numbers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, D)
        self.gate_up = nn.Parameter(torch.randn(E, 2 * F, D))
        self.down = nn.Parameter(torch.randn(E, D, F))
        self.register_buffer("bias", torch.randn(E))
        self.register_buffer("table", torch.randint(9, (7, 2)))


@pytest.fixture
def made():
    torch.manual_seed(0)
    return Made()


def apart(model):
    """The tensors as they are published: one matrix an expert."""
    tensors = {"embed.weight": model.embedding.weight, "mlp.gate.bias": model.bias, "mlp.gate.table": model.table}
    for e, (both, down) in enumerate(zip(model.gate_up, model.down, strict=True)):
        for name, matrix in (("gate", both[:F]), ("up", both[F:]), ("down", down)):
            tensors[f"mlp.experts.{e}.{name}_proj.weight"] = matrix
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def together(model):
    """The tensors as transformers holds them: all experts in one, the gate before up."""
    tensors = {name: tensor for name, tensor in apart(model).items() if ".experts." not in name}
    stacks = {"mlp.experts.gate_up_proj": model.gate_up, "mlp.experts.down_proj": model.down}
    return tensors | {name: stack.detach() for name, stack in stacks.items()}


def filled(folder, tensors, dtype=torch.float32, **options):
    save_file(tensors, folder / SINGLE)
    with torch.device("meta"):
        model = Made()
    fill_model(model, Files(folder, {}), NAMES.__getitem__, dtype, **options)
    return model


@pytest.mark.parametrize("layout", [apart, together])
def test_experts_are_stacked_along_the_first_axis_from_either_layout(tmp_path, made, layout):
    model = filled(tmp_path, layout(made))
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    for name, tensor in made.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
        assert model.state_dict()[name].is_contiguous()
    assert all(isinstance(parameter, nn.Parameter) for parameter in (model.gate_up, model.down))
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in made.named_parameters()}


def test_buffers_keep_their_type_and_weights_take_the_one_asked_for(tmp_path, made):
    model = filled(tmp_path, apart(made), torch.bfloat16)
    assert {model.gate_up.dtype, model.embedding.weight.dtype} == {torch.bfloat16}
    assert (model.bias.dtype, model.table.dtype) == (torch.float32, torch.int64)
    assert torch.equal(model.gate_up, made.gate_up.bfloat16())


def test_a_missing_and_an_extra_expert_are_named(tmp_path, made):
    tensors = apart(made)
    tensors["mlp.experts.5.up_proj.weight"] = tensors.pop("mlp.experts.3.up_proj.weight")
    with pytest.raises(CheckpointError) as caught:
        filled(tmp_path, tensors)
    assert str(caught.value) == (
        f"{tmp_path}: the weights do not fit config.json: 1 missing: 'mlp.experts.3.up_proj.weight'; "
        "1 unexpected: 'mlp.experts.5.up_proj.weight'"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mlp.experts.2.down_proj.weight": torch.zeros(F, D)},
            "'mlp.experts.2.down_proj.weight' is [3, 4] instead of [4, 3]",
        ),
        ({"mlp.gate.table": torch.zeros(7, 2)}, "1 not of a whole-number type (I64 I32): 'mlp.gate.table' is F32"),
        (
            {"mlp.experts.0.up_proj.weight": torch.zeros(F, D, dtype=torch.int64)},
            "1 not of a plain type (F64 F32 F16 BF16): 'mlp.experts.0.up_proj.weight' is I64",
        ),
    ],
)
def test_an_expert_of_another_shape_or_type_is_named(tmp_path, made, changes, words):
    with pytest.raises(CheckpointError) as caught:
        filled(tmp_path, apart(made) | changes)
    assert words in str(caught.value)


def test_experts_in_one_tensor_must_have_its_shape(tmp_path, made):
    tensors = together(made) | {"mlp.experts.gate_up_proj": torch.zeros(E, D, 2 * F)}
    with pytest.raises(CheckpointError, match=r"'mlp.experts.gate_up_proj' is \[5, 4, 6\] instead of \[5, 6, 4\]"):
        filled(tmp_path, tensors)


def test_a_table_of_32_bits_becomes_the_model_s_64(tmp_path, made):
    model = filled(tmp_path, apart(made) | {"mlp.gate.table": made.table.int()})
    assert torch.equal(model.table, made.table)
    assert model.table.dtype == torch.int64


def test_names_that_are_explained_are_not_unexpected(tmp_path, made):
    tensors = apart(made) | {"mtp.weight": torch.zeros(2), "mtp_other": torch.zeros(2)}
    with pytest.raises(CheckpointError, match="1 unexpected: 'mtp_other'"):
        filled(tmp_path, tensors, unused=("mtp.",))


def test_more_experts_than_tensors_are_refused_before_they_are_listed(tmp_path, made):
    save_file({"embed.weight": made.embedding.weight.detach()}, tmp_path / SINGLE)
    with torch.device("meta"):
        model = Made()
        model.gate_up = nn.Parameter(torch.empty(10**12, 2 * F, D))
    with pytest.raises(CheckpointError, match="asks for 1000000000000 experts, and its files hold 1 tensors"):
        fill_model(model, Files(tmp_path, {}), NAMES.__getitem__)


def test_a_copy_of_a_tied_head_may_stand_beside_stacked_experts(tmp_path, made):
    filled(tmp_path, apart(made) | {"lm_head.weight": made.embedding.weight.detach().clone()})
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' and 'embed.weight' are one matrix"):
        filled(tmp_path, apart(made) | {"lm_head.weight": torch.zeros(7, D)})


@pytest.mark.parametrize("layout", [apart, together])
def test_a_stack_that_lies_otherwise_than_in_the_file_is_copied_as_it_lies(tmp_path, made, layout):
    save_file(layout(made), tmp_path / SINGLE)
    with torch.device("meta"):
        model = Made()
        model.down = nn.Parameter(torch.empty(E, F, D).mT)
    fill_model(model, Files(tmp_path, {}), NAMES.__getitem__)
    assert torch.equal(model.down, made.down)
    assert model.down.mT.is_contiguous()


@pytest.mark.parametrize("layout", [apart, together])
def test_one_tensor_at_a_time_is_in_memory_beside_the_stacks(tmp_path, made, layout, monkeypatch):
    read, alive, most = packed.read_tensor, [], []

    def counting(path, name, header):
        most.append(sum(reference() is not None for reference in alive))
        tensor = read(path, name, header)
        if ".gate." not in name:  # buffers keep their type: what was read is what the model holds
            alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(packed, "read_tensor", counting)
    filled(tmp_path, layout(made), torch.float64)
    assert len(most) == len(layout(made)) - (2 if packed.MAPS else 0)  # both buffers keep their type: they are mapped
    assert max(most) == 0
