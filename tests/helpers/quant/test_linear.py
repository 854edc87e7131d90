"""Packed layers: the same numbers in every way of holding them, and what a kernel must not be given."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.compare import assert_close, max_error, randn, relative_rms, tolerance
from helpers.quant import cpu
from helpers.quant.backends import DYNAMIC, as_read, encoded_as, readable
from helpers.quant.cpu import CPU
from helpers.quant.formats.named import FORMATS, encode
from helpers.quant.linear import Packed, QuantisedEmbedding, QuantisedLinear

NAMES = [*FORMATS, DYNAMIC]
TOKENS = [1, 2, 3, 4, 33, 600]  # below and above every limit up to which a kernel is asked
BF16 = torch.bfloat16
pytestmark = pytest.mark.usefixtures("no_gradients")


def linear(rows=192, columns=256, bias=True, dtype=torch.float32, seed=0):
    layer = nn.Linear(columns, rows, bias=bias)
    layer.weight.copy_(randn(rows, columns, seed=seed))
    return layer.to(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_the_matrix_product_with_the_decoded_weight(name):
    layer, x = linear(), randn(2, 3, 256, seed=1)
    decoded = encode(layer.weight, "int8" if name == DYNAMIC else name).decode()
    wanted = functional.linear(as_read(x.flatten(0, 1), name).view(x.shape), decoded, layer.bias)
    found = QuantisedLinear.of(layer, name)(x)
    assert_close(found, wanted, tolerance(torch.float32, 256), name)
    if name != "bf16":
        assert relative_rms(found, layer(x)) > 1e-3  # and it is not the layer that it was made of


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_kernel_gives_what_the_readable_way_gives(name, tokens):
    layer, x = linear(dtype=BF16), randn(tokens, 256, seed=tokens).to(BF16)
    fast, slow = QuantisedLinear.of(layer, name), QuantisedLinear.of(layer, name, ways={})
    wanted = slow(x.float()).float()  # the same codes and no rounding to bfloat16 on the way
    assert_close(fast(x), wanted, tolerance(BF16, 1), name)
    assert torch.equal(fast.weight, slow.weight)


@pytest.mark.parametrize("name", CPU)
def test_what_a_kernel_holds_comes_back_as_the_format_stores_it(name):
    weight = randn(128, 256, seed=3).to(BF16)
    packed, wanted = Packed.of(weight, name), encoded_as(weight, name)
    assert (packed.way is CPU[name]) == CPU[name].fits(wanted)  # a processor may lack the instructions of a kernel
    found = packed.encoded()
    assert (found.format, found.shape) == (wanted.format, wanted.shape)
    assert all(torch.equal(found.parts[part], wanted.parts[part]) for part in wanted.parts)


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_another_processor_gives_the_same_numbers(capability, tmp_path):
    """torch lays INT4 out by the vector instructions that there are; where it is not known how, nothing is fast."""
    program = """
import torch
from helpers.quant.cpu import CPU
from helpers.quant.linear import Packed
torch.manual_seed(0)
weight = torch.randn(128, 256).bfloat16()
for name in ("int4", "int4-affine", "int8", "int8-dynamic"):
    fast, slow = Packed.of(weight, name), Packed.of(weight, name, ways={})
    x = torch.randn(5, 256).bfloat16()
    assert torch.equal(fast.decode(torch.float32), slow.decode(torch.float32)), name
    wanted = slow.multiply(x.float())
    assert (fast.multiply(x).float() - wanted).norm() < 0.008 * wanted.norm(), name
print(torch.backends.cpu.get_cpu_capability(), Packed.of(weight, "int4").way is CPU["int4"])
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    kind, fast = run.stdout.split()[-2:]
    assert fast == str(kind in cpu.ROWS_PER_BLOCK)


def test_a_width_that_torchs_int8_kernel_reads_beyond_is_decoded():
    packed = Packed.of(randn(48, 40, seed=0).to(BF16), "int8")
    assert packed.way is not CPU["int8"]
    x = randn(2, 40, seed=1).to(BF16)
    assert_close(packed.multiply(x), x.float() @ packed.decode(torch.float32).T, tolerance(BF16, 1), "int8")


@pytest.mark.parametrize("rows", [16, 96, 100])
def test_rows_that_fill_no_block_of_a_layout_are_decoded(rows):
    for name in ("int4", "nf4"):
        packed, x = Packed.of(randn(rows, 256, seed=0).to(BF16), name), randn(1, 256, seed=1).to(BF16)
        wanted = x.float() @ packed.decode(torch.float32).T
        assert_close(packed.multiply(x), wanted, tolerance(BF16, 1), name)


def test_float32_is_exact_and_takes_no_kernel_that_rounds_to_bfloat16():
    for name in ("int8", "int4", "nf4"):
        assert Packed.of(randn(128, 256, seed=0), name).way.multiply is None
        fast = Packed.of(randn(128, 256, seed=0).to(BF16), name)
        assert fast.way.has_kernel_for(randn(1, 256, seed=1).to(BF16)) == CPU[name].fits(fast.encoded())
        assert not fast.way.has_kernel_for(randn(1, 256, seed=1))


def test_where_a_gradient_is_wanted_the_matrix_is_decoded():
    layer = QuantisedLinear.of(linear(dtype=BF16), "int4")
    with torch.enable_grad():
        x = randn(1, 256, seed=0).to(BF16).requires_grad_()
        layer(x).sum().backward()
    assert_close(x.grad[0], layer.weight.float().sum(dim=0), tolerance(BF16, 192), "the gradient of a sum")


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_dtype_leaves_codes_and_scales_as_they_are(name):
    layer = QuantisedLinear.of(linear(), name)
    before = {part: tensor.clone() for part, tensor in layer.packed.tensors().items()}
    layer.to(BF16)
    for part, tensor in layer.packed.tensors().items():
        assert tensor.dtype == before[part].dtype
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), before[part].reshape(-1).view(torch.uint8))
    assert layer.weight.dtype == layer(randn(1, 256, seed=0).to(BF16)).dtype == layer.bias.dtype == BF16


def test_a_layer_moves_to_another_device():
    layer = QuantisedLinear.of(linear(), "int4").to("meta")
    assert {tensor.device.type for tensor in [*layer.parameters(), *layer.buffers()]} == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_gives_the_rows_of_its_decoded_table(name):
    table = nn.Embedding(50, 128)
    layer, ids = QuantisedEmbedding.of(table, name), torch.tensor([[0, 49, 7], [7, 7, 1]])
    assert layer(ids).shape == (2, 3, 128)
    assert torch.equal(layer(ids), layer.weight[ids])
    assert torch.equal(layer.weight, encode(table.weight, "int8" if name == DYNAMIC else name).decode())


def test_a_row_that_is_asked_for_is_decoded_alone(monkeypatch):
    layer = QuantisedEmbedding.of(nn.Embedding(1000, 128), "nf4")
    monkeypatch.setattr(QuantisedEmbedding, "weight", property(lambda self: pytest.fail("the whole table")))
    assert layer(torch.tensor([3])).shape == (1, 128)


def test_groups_that_wrap_run_over_the_end_of_a_row():
    weight = randn(8, 24, seed=0)
    with pytest.raises(ValueError, match="24 columns"):
        Packed.of(weight, "int4")
    packed = Packed.of(weight, "int4", wrap=True)
    assert torch.equal(packed.decode(torch.float32), encode(weight.view(6, 32), "int4").decode().view(8, 24))
    assert 8 * sum(tensor.nbytes for tensor in packed.tensors().values()) / weight.numel() == 4.5
    assert Packed.of(randn(8, 64, seed=0), "int4", wrap=True).laid == (8, 64)  # only where it must


def test_a_way_from_outside_is_taken():
    """The seam for kernels of another device: ``helpers.kernels`` stands above, and hands its ways down."""
    way = readable("int4")
    asked = []
    spied = type(way)(way.fits, way.pack, way.unpack, way.decode, lambda x, tensors: asked.append(x) or x[:, :64], 1)
    packed = Packed.of(randn(64, 128, seed=0).to(BF16), "int4", ways={"int4": spied})
    x = randn(1, 128, seed=1).to(BF16)
    assert torch.equal(packed.multiply(x), x[:, :64])
    assert len(asked) == 1
    packed.multiply(randn(2, 128, seed=1).to(BF16))
    assert len(asked) == 1  # more tokens than it is for


def test_dynamic_int8_rounds_tokens_and_adds_up_exactly():
    layer, x = linear(bias=False), randn(3, 256, seed=1)
    dynamic, plain = QuantisedLinear.of(layer, DYNAMIC), QuantisedLinear.of(layer, "int8")
    assert 1e-3 < relative_rms(dynamic(x), plain(x)) < 3e-2
    alone = torch.cat([dynamic(row) for row in x.split(1)])  # one by one or together: the same whole numbers
    assert max_error(alone, dynamic(x)) == 0
