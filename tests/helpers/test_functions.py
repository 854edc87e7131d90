"""What a layer computes with is exchanged by name, for good or for a while, an error inside the block included."""

import pytest
import torch
from torch import nn

from helpers.functions import Layer, declared, exchange, exchanged


class Scaled(Layer):
    functions = declared(scale=lambda x: 2 * x, shift=lambda x: x + 1)

    def forward(self, x):
        return self.functions["shift"](self.functions["scale"](x))


def test_one_layer_computes_with_another_function_and_its_class_does_not_notice():
    layer, other = Scaled(), Scaled()
    exchange(layer, {"scale": lambda x: 5 * x})
    assert (layer(torch.ones(1)).item(), other(torch.ones(1)).item()) == (6, 3)


def test_a_function_is_another_one_within_the_block_only_and_then_what_it_was_before():
    layer = Scaled()
    exchange(layer, {"shift": lambda x: x})
    with exchanged({layer: {"scale": lambda x: 5 * x}}):
        assert layer(torch.ones(1)).item() == 5
    assert layer(torch.ones(1)).item() == 2


def test_a_whole_forward_is_another_one_within_the_block_only():
    layer = nn.Identity()
    with exchanged({layer: {"forward": lambda x: x + 1}}):
        assert layer(torch.ones(1)).item() == 2
        with exchanged({layer: {"forward": lambda x: x + 5}}):
            assert layer(torch.ones(1)).item() == 6
        assert layer(torch.ones(1)).item() == 2
    assert layer(torch.ones(1)).item() == 1
    assert "forward" not in vars(layer)


def test_an_error_inside_leaves_nothing_behind():
    layer = Scaled()
    with pytest.raises(AttributeError), exchanged({layer: {"scale": lambda x: x.nothing, "forward": layer.forward}}):
        layer(torch.ones(1))
    assert layer(torch.ones(1)).item() == 3
    assert not {"functions", "forward"} & vars(layer).keys()


def test_a_name_that_a_layer_does_not_have_is_refused_and_nothing_is_exchanged():
    layer = Scaled()
    with pytest.raises(ValueError, match="Scaled computes with scale, shift, forward; it has no attend"):
        exchange(layer, {"scale": lambda x: x, "attend": lambda x: x})
    with pytest.raises(ValueError, match="has no attend"), exchanged({layer: {"attend": lambda x: x}}):
        pass
    assert layer(torch.ones(1)).item() == 3
