"""Steps of plain optimizers: one kernel reads the gradients and writes the parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import OptimizerCase
from support.trees import (
    assert_trees_close,
    assert_trees_equal,
    sample_gradients,
    sample_params,
)
from torchopt import pytree


def parameters(**options: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(sample_params(**options))
    return [leaf.contiguous().requires_grad_() for leaf in leaves]


def take_steps(
    optimizer: torchopt.Optimizer, params: list[torch.Tensor], count: int = 3
) -> tuple[Any, Any]:
    for step in range(count):
        for param, gradient in zip(params, sample_gradients(params, step, sparse=True)):
            param.grad = gradient
        optimizer.step()
    return params, optimizer.state_dict()


@pytest.mark.parametrize('case', CASES, ids=str)
def test_steps(case: OptimizerCase, device: str, launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        params = parameters(device=device)
        optimizer = case.make_class(params, use_accelerated_op=accelerated)
        results.append(take_steps(optimizer, params))
    assert len(launches) == (3 if case.has_kernel else 0)
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)


def test_what_is_written(launches: list[str]) -> None:
    params = parameters()[1:]
    assert params[0].numel() > 1
    optimizer = torchopt.Adam(params, lr=0.1, use_accelerated_op=True)
    params[0].grad = gradient = torch.ones_like(params[0])
    optimizer.step()
    launches.clear()
    lent, clone = optimizer.state_dict()['state'], copy.copy(optimizer)
    kept = copy.deepcopy(lent)
    versions = [param._version for param in params]
    address, value = params[0].data_ptr(), params[0].detach().clone()
    optimizer.step()
    assert launches == ['adam']
    assert params[0].data_ptr() == address
    torch.testing.assert_close(params[0].detach(), value - 0.1)
    assert torch.equal(gradient, torch.ones_like(value))
    assert [p._version > v for p, v in zip(params, versions)] == [True] + [False] * len(params[1:])
    # States that were handed out, and states of a copy, do not change.
    for state in (lent, clone.state_dict()['state']):
        assert_trees_equal(state, kept)
    # The next step owns its states.
    moment = optimizer.state[params[0]]['exp_avg']
    before = moment.clone()
    optimizer.step()
    assert optimizer.state[params[0]]['exp_avg'] is moment
    assert not torch.equal(moment, before)


def test_a_later_group_that_does_not_fit_stops_the_first() -> None:
    params = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = torchopt.Adam([{'params': [param]} for param in params], use_accelerated_op=True)
    for param in params:
        param.grad = torch.ones_like(param)
    params[1].data = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match='float64'):
        optimizer.step()
    assert torch.equal(params[0].detach(), torch.ones(3))
    assert all(entry['step'] == 0 for entry in optimizer.state.values())
    assert not optimizer.state_dict()['state']


@pytest.mark.parametrize('layout', ['transposed', 'shared'])
def test_other_layouts(layout: str) -> None:
    results = []
    for accelerated in (False, True):
        whole = torch.arange(6.0).reshape(2, 3)
        parts = [whole.t()] if layout == 'transposed' else [whole[0], whole[0, 1:]]
        params = [part.detach().requires_grad_() for part in parts]
        for param in params:
            param.grad = torch.ones_like(param)
        torchopt.SGD(params, lr=0.5, use_accelerated_op=accelerated).step()
        results.append(whole)
    assert_trees_close(*results)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype, kernels: str) -> None:
    value = torch.linspace(-2, 2, 1025, dtype=torch.float64, device=kernels).to(dtype)
    param = value.clone().requires_grad_()
    param.grad = torch.full_like(value, 0.3)
    torchopt.SGD([param], lr=0.01, use_accelerated_op=True).step()
    lr, grad = (torch.tensor(x, dtype=torch.float32) for x in (0.01, param.grad[0].item()))
    assert torch.equal(param.detach(), (value.float() - lr * grad).to(dtype))
