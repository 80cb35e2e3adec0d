"""``inplace=True`` never cuts a graph, and never lets one update overwrite another."""

from __future__ import annotations

import pytest
import torch

import torchopt
from support.inplace import assert_same_under_torch_func, meta_gradients
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import assert_trees_close, assert_trees_equal, copied, sample_gradients
from torchopt import pytree


@pytest.mark.parametrize('inputs', ['params', 'rate'])
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_forgotten_inplace_gives_the_same_meta_gradient(case: OptimizerCase, inputs: str) -> None:
    """``update`` and ``apply_updates`` are called with their default, ``inplace=True``."""
    expected = meta_gradients(case, {'inplace': False}, inputs)
    assert_trees_close(meta_gradients(case, {}, inputs), expected)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_forgotten_inplace_under_torch_func(case: OptimizerCase) -> None:
    assert_same_under_torch_func(case.make())


@pytest.mark.parametrize('case', CASES, ids=str)
def test_plain_training_still_writes_in_place(case: OptimizerCase) -> None:
    """Weight decay of parameters that require grad does not build a graph."""
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
