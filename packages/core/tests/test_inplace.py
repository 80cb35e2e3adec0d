"""``inplace=True`` never cuts a graph, and never lets one update overwrite another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import assert_trees_close, assert_trees_equal, copied, sample_gradients
from torchopt import pytree


def meta_gradients(case: OptimizerCase, options: dict[str, Any], inputs: Any) -> Any:
    """Return the derivatives of a loss after three steps by first parameters and learning rate."""
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    optimizer = case.make(lr=rate if inputs == 'rate' else 0.1)
    params = {'w': start if inputs == 'params' else start.detach().requires_grad_()}
    state = optimizer.init(params)
    for _ in range(3):
        (gradient,) = torch.autograd.grad(
            params['w'].sin().sum(), params['w'], create_graph=inputs == 'params'
        )
        updates, state = optimizer.update({'w': gradient}, state, params=params, **options)
        params = torchopt.apply_updates(params, updates, **options)
    wanted = {'params': start, 'rate': rate}[inputs]
    return torch.autograd.grad(params['w'].square().sum(), wanted)


@pytest.mark.parametrize('inputs', ['params', 'rate'])
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_forgotten_inplace_gives_the_same_meta_gradient(case: OptimizerCase, inputs: str) -> None:
    """Each with its default, ``inplace=True``."""
    expected = meta_gradients(case, {'inplace': False}, inputs)
    assert_trees_close(meta_gradients(case, {}, inputs), expected)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_forgotten_inplace_under_torch_func(case: OptimizerCase) -> None:
    optimizer = case.make()

    def meta_loss(start: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        params = {'w': start}
        state = optimizer.init(params)
        for _ in range(2):
            gradients = torch.func.grad(lambda p: p['w'].sin().sum())(params)
            updates, state = optimizer.update(gradients, state, params=params, **options)
            params = torchopt.apply_updates(params, updates, **options)
        return params['w'].square().sum()

    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        derivative = torch.vmap(transform(meta_loss), in_dims=(0, None))
        assert_trees_close(derivative(start, {}), derivative(start, {'inplace': False}))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_plain_training_still_writes_in_place(case: OptimizerCase) -> None:
    """Leaf parameters that decay are no reason to build a graph."""
    if case.value('moment_requires_grad'):
        pytest.skip('states that require grad carry a graph')
    params = [torch.tensor([1.0, -2.0], requires_grad=True)]
    optimizer = case.make()
    state, gradients = optimizer.init(params), [torch.ones(2)]
    updates, _ = optimizer.update(gradients, state, params=params)
    assert updates[0] is gradients[0]
    assert torchopt.apply_updates(params, updates)[0] is params[0]


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_gradients_that_share_memory_through_detach(case: OptimizerCase) -> None:
    params = [torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2)]
    optimizer = case.make()
    state = optimizer.init(params)
    found = torch.autograd.grad((params[0] + params[1]).square().sum(), params)
    shared = [gradient.detach() for gradient in found]
    assert shared[0] is not shared[1]
    assert shared[0].data_ptr() == shared[1].data_ptr()
    apart = optimizer.update(copied(shared), copied(state), params=params, inplace=False)
    with torch.no_grad():
        together = optimizer.update(shared, state, params=params)
    assert_trees_close(together, pytree.tree_map(torch.Tensor.detach, apart), rtol=1e-6)


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_lists_and_the_tuples_of_autograd_go_together(case: OptimizerCase, inplace: bool) -> None:
    """``torch.autograd.grad`` returns a tuple for a list of parameters."""
    results = []
    for container in (list, tuple):
        optimizer = case.make()
        params = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
        state = optimizer.init(params)
        for step in range(3):
            gradients = container(sample_gradients(params, step))
            with torch.no_grad():
                updates, state = optimizer.update(gradients, state, params=params, inplace=inplace)
                assert type(updates) is container
                params = torchopt.apply_updates(params, updates, inplace=inplace)
        assert type(params) is list
        results.append((params, state))
    assert_trees_equal(*results)
