"""What is put on a model is taken off again, an error inside the block included."""

import pytest
import torch
from torch import nn

from helpers.hooks import hooked


def test_hooks_are_called_within_the_block_only():
    layers, seen = [nn.Identity(), nn.Identity()], []
    with hooked(layer.register_forward_pre_hook(lambda *_: seen.append(1)) for layer in layers):
        layers[0](torch.ones(1))
        layers[1](torch.ones(1))
    layers[0](torch.ones(1))
    assert seen == [1, 1]


def test_an_error_inside_leaves_nothing_behind():
    layer, seen = nn.Linear(2, 2), []
    note = layer.register_forward_pre_hook(lambda *_: seen.append(1))
    with hooked([note]), pytest.raises(RuntimeError):
        layer(torch.ones(3))
    assert layer(torch.ones(2)).shape == (2,)
    assert seen == [1]
