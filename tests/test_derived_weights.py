"""Layers that compute a weight from parameters and keep it as a plain attribute."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import torchopt


def pruned(layer: nn.Module, name: str = 'weight') -> nn.Module:
    prune.random_unstructured(layer, name, amount=0.5)
    return layer


def pruned_twice(layer: nn.Module, name: str = 'weight') -> nn.Module:
    return pruned(pruned(layer, name), name)


DERIVED = [nn.utils.weight_norm, nn.utils.spectral_norm, pruned, pruned_twice]


def linear_of(derive: Callable[..., Any]) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        return derive(nn.Linear(3, 3, dtype=torch.float64))


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.parametrize('derive', DERIVED)
def test_cutting_lets_go_of_the_earlier_steps(derive: Callable[..., Any], x: torch.Tensor) -> None:
    net = nn.Sequential(linear_of(derive))
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    inner = x.clone().requires_grad_().exp()
    reference = weakref.ref(inner)
    optimizer.step(net(inner).square().mean())
    net(x)
    del inner
    assert reference() is not None
    torchopt.stop_gradient(net)
    torchopt.stop_gradient(optimizer)
    gc.collect()
    assert reference() is None
    assert net[0].weight.is_leaf
    optimizer.step(net(x).square().mean())


def test_cutting_a_recurrent_layer_lets_go_of_the_earlier_steps() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        net = nn.utils.weight_norm(nn.LSTM(3, 4), 'weight_hh_l0')
    optimizer = torchopt.MetaSGD(net, lr=0.1)
    inner = torch.ones(2, 3, requires_grad=True).exp()
    reference = weakref.ref(inner)
    optimizer.step(net(inner)[0].square().mean())
    net(torch.ones(2, 3))
    del inner
    torchopt.stop_gradient(net)
    torchopt.stop_gradient(optimizer)
    gc.collect()
    assert reference() is None


def test_an_attribute_that_is_a_view_is_replaced() -> None:
    layer: Any = linear_of(pruned)
    value = (layer.weight_orig * 2)[:]
    layer.weight = value
    torchopt.stop_gradient(layer)
    assert layer.weight is not value
    assert layer.weight.grad_fn is None
    assert torch.equal(layer.weight, value)


def test_other_attributes_stay_in_their_graph() -> None:
    """A user may still learn through them."""
    layer: Any = linear_of(nn.utils.weight_norm)
    log_temperature = torch.zeros((), requires_grad=True)
    layer.temperature = log_temperature.exp()
    torchopt.stop_gradient(layer)
    assert torch.autograd.grad(layer.temperature, log_temperature)[0] == 1


@pytest.mark.parametrize('by', ['reference', 'copy', 'deepcopy'])
@pytest.mark.parametrize('derive', DERIVED)
def test_recovering_brings_the_weight_back_too(
    derive: Callable[..., Any], by: Any, x: torch.Tensor
) -> None:
    net: Any = nn.Sequential(linear_of(derive)).eval()
    expected = net(x)
    weight = net[0].weight.detach().clone()
    state = torchopt.extract_state_dict(net, by=by)
    torchopt.MetaSGD(net, lr=0.1).step(net(x).square().mean())
    net(x)
    assert not torch.equal(net[0].weight, weight)
    with torch.no_grad():
        torchopt.recover_state_dict(net, state)
    assert torch.equal(net[0].weight, weight)
    assert net[0].weight.requires_grad
    assert torch.equal(net(x), expected)


def test_recovering_runs_no_power_iteration(x: torch.Tensor) -> None:
    layer: Any = linear_of(nn.utils.spectral_norm)
    layer(x)
    state = torchopt.extract_state_dict(layer, by='deepcopy')
    vector = layer.weight_u.clone()
    torchopt.recover_state_dict(layer, state)
    assert torch.equal(layer.weight_u, vector)


def test_parameters_alone_can_be_recovered_on_another_device() -> None:
    layer: Any = linear_of(pruned)
    state = torchopt.extract_state_dict(layer, with_buffers=False, device='meta')
    torchopt.recover_state_dict(layer, state)
    assert layer.weight_orig.device.type == 'meta'
