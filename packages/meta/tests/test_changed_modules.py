"""Modules that change after their optimizer was made: moved, parametrized, pruned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import torchopt
from torchopt.registry import OPTIMIZERS, OptimizerEntry

X = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))


def loss_of(net: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = net(X.to(next(net.parameters()).dtype)).square().mean()
    return loss


def cut(net: nn.Module) -> None:
    for param in net.parameters():
        param.detach_().requires_grad_()


def leaves_of(optimizer: torchopt.MetaOptimizer) -> list[torch.Tensor]:
    state: Any = optimizer.state_dict()
    leaves: list[Any] = torchopt.pytree.tree_leaves(state)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_a_module_may_be_moved_before_the_first_step(entry: OptimizerEntry) -> None:
    make = getattr(torchopt, f'Meta{entry.class_name}')
    options = {'initial_accumulator_value': 0.1} if entry.name == 'adagrad' else {}
    moved, expected = make_net(), make_net().double()
    optimizer, reference = make(moved, lr=0.1, **options), make(expected, lr=0.1, **options)
    moved.double()
    for _ in range(2):
        optimizer.step(loss_of(moved))
        reference.step(loss_of(expected))
    for one, other in zip(moved.parameters(), expected.parameters()):
        assert one.dtype == torch.float64
        assert torch.equal(one, other)


def test_a_part_of_a_module_may_be_moved() -> None:
    net: Any = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    net[2].double()
    optimizer.step(net[2](net[:2](X.float()).double()).square().mean())
    ((state, *_),) = optimizer.state_dict()
    assert state.mu['0.weight'].dtype == torch.float32
    assert state.mu['2.weight'].dtype == torch.float64


def test_after_a_step_the_state_is_converted_through_its_graph() -> None:
    net = make_net()
    scale = torch.tensor(2.0, requires_grad=True)
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(scale * loss_of(net))
    moment = optimizer.state_dict()[0][0].mu['0.weight']
    cut(net)
    net.double()
    optimizer.step(loss_of(net))

    net_64 = make_net().double()
    reference = torchopt.MetaAdam(net_64, lr=0.1)
    reference.step(scale.double() * loss_of(net_64))
    cut(net_64)
    reference.step(loss_of(net_64))
    found, expected = (
        torch.autograd.grad(loss_of(each), scale, retain_graph=True)[0] for each in (net, net_64)
    )
    assert expected.abs() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert moment.dtype == torch.float32
    assert optimizer.state_dict()[0][0].mu['0.weight'].dtype == torch.float64


def test_a_module_is_not_converted_while_it_carries_a_graph() -> None:
    """Torch changes the data, but not the graph that gradients go through."""
    net = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(loss_of(net))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch reads .grad of tensors that are not leaves.
        net.double()
    weight = dict(net.named_parameters())['0.weight']
    with pytest.raises(RuntimeError, match=r'call torchopt\.stop_gradient on the module'):
        optimizer.step(loss_of(net))
    assert dict(net.named_parameters())['0.weight'] is weight


def test_first_values_that_require_grad_stay_connected() -> None:
    net = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1, moment_requires_grad=True)
    moment = optimizer.state_dict()[0][0].mu['0.weight']
    net.double()
    optimizer.step(loss_of(net))
    (gradient,) = torch.autograd.grad(loss_of(net), moment)
    assert gradient.abs().sum() > 0


def test_a_state_of_another_dtype_or_device_is_converted_when_it_is_loaded() -> None:
    net = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(loss_of(net))
    state = optimizer.state_dict()
    twin = make_net().double()
    resumed = torchopt.MetaAdam(twin, lr=0.1)
    resumed.load_state_dict(state)
    for saved, loaded in zip(leaves_of(optimizer), leaves_of(resumed), strict=True):
        assert torch.equal(saved.to(loaded.dtype), loaded)
    assert resumed.state_dict()[0][0].mu['0.weight'].dtype == torch.float64
    resumed.step(loss_of(twin))

    far = make_net().to('meta')
    distant = torchopt.MetaAdam(far, lr=0.1)
    distant.load_state_dict(state)
    assert {leaf.device.type for leaf in leaves_of(distant)} == {'meta'}


def test_a_module_may_be_moved_to_another_device() -> None:
    net = make_net()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    net.to('meta')
    optimizer.step(net(X.float().to('meta')).sum())
    assert {leaf.device.type for leaf in leaves_of(optimizer)} == {'meta'}


class Double(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def by_parametrization(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, 'weight', Double())


def by_old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        nn.utils.weight_norm(layer)


def by_pruning(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, 'weight', amount=0.5)


CHANGES = [by_parametrization, parametrizations.weight_norm, by_old_weight_norm, by_pruning]


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('change', CHANGES)
def test_a_parametrization_comes_before_the_optimizer(
    change: Callable[[nn.Module], Any], frozen: bool
) -> None:
    net: Any = make_net()
    net[0].weight.requires_grad_(not frozen)
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    before = optimizer.state_dict()
    change(net[0])
    bias = net[2].bias
    message = r"parameter '0.weight' has been removed .* make the optimizer afterwards"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step(loss_of(net))
    assert net[2].bias is bias
    assert optimizer.state_dict()[0] is before[0]
    afterwards = torchopt.MetaAdam(net, lr=0.1)
    afterwards.step(loss_of(net))
    assert net[2].bias is not bias


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_a_torchscript_module_is_refused() -> None:
    script = torch.jit.trace(nn.Linear(2, 1), X.float())
    with pytest.raises(TypeError, match='TorchScript module cannot be replaced'):
        torchopt.MetaSGD(script, lr=0.1)
