"""States: absent gradients, saving, resuming, and writing in place."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import (
    assert_trees_close,
    assert_trees_equal,
    copied,
    sample_gradients,
    sample_params,
    state_fields,
)
from torchopt import pytree


def none_like(tree: Any) -> Any:
    return pytree.tree_map(lambda x: None, tree, none_is_leaf=True)


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_no_gradient_at_all_changes_nothing(case: OptimizerCase, inplace: bool) -> None:
    params = sample_params()
    optimizer = case.make()
    _, state = optimizer.update(
        sample_gradients(params, 0), optimizer.init(params), params=params, inplace=False
    )
    before = copied(state)
    updates, state = optimizer.update(none_like(params), state, params=params, inplace=inplace)
    assert_trees_equal(updates, none_like(params))
    assert_trees_equal(state, before)
    assert torchopt.apply_updates(params, updates, inplace=inplace) == params


@pytest.mark.parametrize('case', CASES, ids=str)
def test_a_parameter_does_not_depend_on_others(case: OptimizerCase) -> None:
    """The state of a parameter does not depend on other parameters."""
    a, b = (torch.full((2,), v, dtype=torch.float64) for v in (0.3, -0.6))
    optimizer = case.make()
    both, alone = optimizer.init({'a': a, 'b': b}), optimizer.init({'a': a})
    for step in range(6):
        g = sample_gradients({'a': a}, step)['a'] if step % 2 else None
        together, both = optimizer.update(
            {'a': g, 'b': b}, both, params={'a': a, 'b': b}, inplace=False
        )
        by_itself, alone = optimizer.update({'a': g}, alone, params={'a': a}, inplace=False)
        assert_trees_close(together['a'], by_itself['a'])


@pytest.mark.parametrize('case', CASES, ids=str)
def test_inplace_writes_into_the_callers_tensors(case: OptimizerCase) -> None:
    params = sample_params()
    optimizer = case.make()
    state, gradients = optimizer.init(params), sample_gradients(params, 0)
    expected = optimizer.update(copied(gradients), copied(state), params=params, inplace=False)
    with torch.no_grad():
        result = optimizer.update(gradients, state, params=params, inplace=True)
    assert_trees_close(result, pytree.tree_map(torch.Tensor.detach, expected))
    for new, old in zip(pytree.tree_leaves(result), pytree.tree_leaves((gradients, state))):
        assert new is old


@pytest.mark.parametrize('case', CASES, ids=str)
def test_functional_update_writes_nothing(case: OptimizerCase) -> None:
    params = sample_params()
    optimizer = case.make()
    state, gradients = optimizer.init(params), sample_gradients(params, 0)
    before = copied((params, state, gradients))
    updates, _ = optimizer.update(gradients, state, params=params, inplace=False)
    torchopt.apply_updates(params, updates, inplace=False)
    assert_trees_equal((params, state, gradients), before)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_saved_and_resumed_equals_uninterrupted(case: OptimizerCase) -> None:
    optimizer = case.make()

    def run(params: Any, state: Any, steps: range) -> Any:
        for step in steps:
            updates, state = optimizer.update(
                sample_gradients(params, step, sparse=True), state, params=params, inplace=False
            )
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params, state

    params = sample_params()
    whole = run(params, optimizer.init(params), range(8))
    half = run(params, optimizer.init(params), range(4))
    file = io.BytesIO()
    torch.save(pytree.tree_map(torch.Tensor.detach, half), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert pytree.tree_structure(loaded) == pytree.tree_structure(half)
    assert_trees_equal(run(*loaded, range(4, 8)), whole)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_schedule_is_saved_with_the_state(case: OptimizerCase) -> None:
    optimizer = case.make(lr=torchopt.linear_schedule(1.0, 0.0, 10))
    params = sample_params()
    _, state = optimizer.update(
        sample_gradients(params, 0), optimizer.init(params), params=params, inplace=False
    )
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_trees_equal(torch.load(file, weights_only=True), state)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_moments_require_grad_when_asked(case: OptimizerCase) -> None:
    state = case.make().init(sample_params())
    moments = [x for name, x in state_fields(state) if name not in case.entry.unlike_params]
    floating = [x for x in pytree.tree_leaves(moments) if x.is_floating_point()]
    assert {x.requires_grad for x in floating} <= {case.value('moment_requires_grad')}


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_trees_without_tensors(case: OptimizerCase) -> None:
    optimizer = case.make()
    for params in ({}, [], (), {'bias': None}):
        updates, state = optimizer.update(params, optimizer.init(params), params=params)
        assert updates == params
        updates, _ = optimizer.update(params, state, params=params, inplace=False)
        assert updates == params


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_expanded_tensors_are_not_written(case: OptimizerCase) -> None:
    params = {'w': torch.ones(3)}
    optimizer = case.make()
    state = optimizer.init(params)
    before = copied(state)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match='cannot write into an expanded tensor'),
    ):
        optimizer.update({'w': torch.tensor(1.0).expand(3)}, state, params=params)
    assert_trees_equal(state, before)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_gradients_that_share_a_tensor_get_separate_updates(case: OptimizerCase) -> None:
    """For both summands of a sum, autograd returns the same tensor, or a view of it."""
    params = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0]), torch.tensor([[0.5], [3.0]])]
    results = []
    for inplace in (True, False):
        optimizer = case.make()
        leaves = [p.clone().requires_grad_() for p in params]
        loss = (leaves[0] + leaves[1] + leaves[2].squeeze()).square().sum()
        gradients = torch.autograd.grad(loss, leaves)
        assert gradients[0] is gradients[1]
        assert gradients[0].data_ptr() == gradients[2].data_ptr()
        state = optimizer.init(params)
        results.append(optimizer.update(list(gradients), state, params=params, inplace=inplace))
    assert_trees_close(*pytree.tree_map(torch.Tensor.detach, results), rtol=1e-6)


def test_views_of_one_tensor_that_lie_apart_are_written() -> None:
    flat = torch.ones(5)
    views = list(flat.split([2, 3]))
    optimizer = torchopt.sgd(lr=0.5)
    updates, _ = optimizer.update(views, optimizer.init(views))
    assert all(update is view for update, view in zip(updates, views))
    assert flat.tolist() == [-0.5] * 5


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_inplace_keeps_no_graph_of_overwritten_values(case: OptimizerCase) -> None:
    param = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = case.make()
    (gradient,) = torch.autograd.grad((param**3).sum(), param, create_graph=True)
    _, state = optimizer.update([gradient], optimizer.init([param]), params=[param], inplace=False)
    (gradient,) = torch.autograd.grad((param**3).sum(), param, create_graph=True)
    with torch.no_grad():
        updates, state = optimizer.update([gradient], state, params=[param])
    assert updates[0].data_ptr() == gradient.data_ptr()
    assert all(leaf.grad_fn is None for leaf in pytree.tree_leaves((updates, state)))
    assert torchopt.apply_updates([param], updates)[0] is param
