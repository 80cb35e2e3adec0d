"""Meta-optimizers of building blocks, and the parameters to evaluate at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.block_cases import BLOCKS, BlockCase
from support.trees import assert_trees_close
from support.unrolled import META, START, functional_meta_loss, inner_loss, outer_loss
from torchopt import pytree


class Inner(nn.Module):
    """The parameters of ``support.unrolled`` as a module."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in START.items():
            setattr(self, name, nn.Parameter(value.clone()))


def named(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.named_parameters())


@pytest.mark.parametrize('case', BLOCKS, ids=str)
def test_equals_the_functional_steps(case: BlockCase) -> None:
    net, phi, numbers = Inner(), META.clone().requires_grad_(), case.tensors()
    inputs = [phi, *net.parameters(), *numbers]
    optimizer = torchopt.MetaOptimizer(net, case.make(*numbers))
    for _ in range(4):
        optimizer.step(inner_loss(phi, named(net)))
    found = torch.autograd.grad(outer_loss(named(net)), inputs)
    start = pytree.tree_map(lambda leaf: leaf.clone().requires_grad_(), START)
    expected = torch.autograd.grad(
        functional_meta_loss(case.make(*numbers), phi, start), [phi, *start.values(), *numbers]
    )
    assert_trees_close(found, expected, rtol=1e-9)


def test_the_parameters_to_evaluate_at() -> None:
    """Their loss has a meta-gradient; the module itself keeps what the next step needs."""

    def average(phi: torch.Tensor, lr: torch.Tensor) -> Any:
        net = Inner()
        optimizer = torchopt.MetaOptimizer(
            net, torchopt.schedule_free(torchopt.sgd(lr), lr, beta=0.8)
        )
        for _ in range(3):
            optimizer.step(inner_loss(phi, named(net)))
        (state,) = optimizer.state_dict()
        found = torchopt.schedule_free_eval_params(state, named(net))
        # By hand: the mean of all z is (y - 0.2 z) / 0.8.
        for name, y in named(net).items():
            torch.testing.assert_close(found[name], (y - 0.2 * state.z[name]) / 0.8)
        return outer_loss(found)

    inputs = META.clone().requires_grad_(), torch.tensor(0.2).double().requires_grad_()
    assert torch.autograd.gradcheck(average, inputs)


def test_states_can_be_taken_back() -> None:
    net = Inner()
    optimizer = torchopt.MetaOptimizer(net, torchopt.schedule_free(torchopt.sgd(0.1)))
    phi = META.clone().requires_grad_()
    optimizer.step(inner_loss(phi, named(net)))
    kept = [torchopt.extract_state_dict(part, by='reference') for part in (net, optimizer)]

    def go_on() -> Any:
        for part, state in zip((net, optimizer), kept):
            torchopt.recover_state_dict(part, state)
        for _ in range(2):
            optimizer.step(inner_loss(phi, named(net)))
        return torch.autograd.grad(outer_loss(named(net)), phi, retain_graph=True)

    first = go_on()
    assert_trees_close(go_on(), first)


@pytest.mark.parametrize('entry', torchopt.registry.OPTIMIZERS, ids=lambda entry: entry.name)
def test_a_schedule_of_rates_by_name(entry: Any) -> None:
    """The tree has the qualified names; each parameter moves as if its rate were alone."""
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def rates(count: torch.Tensor) -> Any:
        return {'w': 0.1, 'b': 0.2 * factor**count}

    def ends(lr: Any) -> Any:
        net = Inner()
        optimizer = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=lr)
        for _ in range(3):
            optimizer.step(sum(p.sin().sum() for p in net.parameters()))
        return named(net)

    together, one, other = ends(rates), ends(0.1), ends(lambda count: 0.2 * factor**count)
    assert_trees_close(together, {'w': one['w'], 'b': other['b']})
    found = torch.autograd.grad(together['b'].sum(), factor, retain_graph=True)
    assert_trees_close(found, torch.autograd.grad(other['b'].sum(), factor))
