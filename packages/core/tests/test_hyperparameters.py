"""Hyperparameters as tensors, schedules and trees."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import assert_trees_close, sample_gradients
from support.unrolled import META, START, functional_meta_loss
from torchopt import pytree


def run(optimizer: torchopt.GradientTransformation, params: Any, steps: int = 5) -> Any:
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(
            sample_gradients(params, step), state, params=params, inplace=False
        )
        params = torchopt.apply_updates(params, updates, inplace=False)
    return pytree.tree_map(torch.Tensor.detach, params)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_tensors_equal_numbers(case: OptimizerCase) -> None:
    tensors = case.tensor_options()
    numbers = pytree.tree_map(torch.Tensor.item, tensors)
    assert_trees_close(run(case.make(**tensors), START), run(case.make(**numbers), START))


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_constant_schedule_and_trees_equal_a_number(case: OptimizerCase) -> None:
    expected = run(case.make(lr=0.07), START)
    rate = torch.tensor(0.07, dtype=torch.float64)
    assert_trees_close(run(case.make(lr=lambda count: 0.07), START), expected)
    assert_trees_close(run(case.make(lr=lambda count: rate), START), expected)
    rates = pytree.tree_map(lambda x: rate, START)
    assert_trees_close(run(case.make(lr=rates), START), expected)
    rates = pytree.tree_map(lambda x: torch.full_like(x, 0.07), START)
    assert_trees_close(run(case.make(lr=rates), START), expected)


@pytest.mark.parametrize('container', [tuple, list], ids=['tuple', 'list'])
def test_rates_in_sequences(container: type) -> None:
    params = container([torch.ones(2), None, torch.ones(3)])
    rates = container([torch.tensor(0.5), None, torch.tensor([1.0, 2.0, 3.0])])
    updates, _ = torchopt.sgd(lr=rates).update(params, torchopt.base.EmptyState(), inplace=False)
    assert type(updates) is container
    assert updates[0].tolist() == [-0.5, -0.5]
    assert updates[1] is None
    assert updates[2].tolist() == [-1.0, -2.0, -3.0]


def test_rates_of_a_class_are_in_the_order_of_its_parameters() -> None:
    params = [torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)]
    optimizer = torchopt.SGD(params, lr=[torch.tensor(0.5), torch.tensor(0.25)])
    sum(p.sum() for p in params).backward()
    optimizer.step()
    assert [p.tolist() for p in params] == [[0.5, 0.5], [0.75]]


@pytest.mark.slow
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_meta_sgd_gradient_to_the_tree_of_rates(case: OptimizerCase) -> None:
    leaves, structure = pytree.tree_flatten(
        pytree.tree_map(lambda x: torch.full_like(x, 0.1).requires_grad_(), START)
    )

    def meta_loss(*rates: torch.Tensor) -> torch.Tensor:
        optimizer = case.make(lr=pytree.tree_unflatten(structure, rates))
        return functional_meta_loss(optimizer, META, START)

    assert torch.autograd.gradcheck(meta_loss, leaves, check_forward_ad=True)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_tensors_changed_in_place_take_effect(case: OptimizerCase) -> None:
    """An outer optimizer changes tensors in place that the inner optimizer holds."""
    options = case.tensor_options()
    rates = pytree.tree_map(lambda x: torch.full_like(x, 0.1).requires_grad_(), START)
    for changed in (options, {**options, 'lr': rates}):
        optimizer = case.make(**changed)
        with torch.no_grad():
            for leaf in pytree.tree_leaves(changed):
                leaf.mul_(0.9)
        assert_trees_close(run(optimizer, START), run(case.make(**changed), START))


def test_a_rate_can_be_learned_if_the_optimizer_is_made_without_grad_mode() -> None:
    rate = torch.tensor(0.1, requires_grad=True)
    with torch.no_grad():
        optimizer = torchopt.sgd(lr=rate)
    (update,), _ = optimizer.update([torch.ones(2)], optimizer.init([torch.ones(2)]), inplace=False)
    assert torch.autograd.grad(update.sum(), rate)[0].item() == -2.0


@pytest.mark.slow
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_meta_gradient_to_the_tensors_of_a_schedule(case: OptimizerCase) -> None:
    first, rate = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 0.8))

    def meta_loss(first: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        schedule = torchopt.exponential_decay(first, 1, rate)
        return functional_meta_loss(case.make(lr=schedule), META, START)

    assert torch.autograd.gradcheck(meta_loss, (first, rate), check_forward_ad=True)


def test_a_scale_broadcasts_but_does_not_enlarge() -> None:
    scale = torchopt.transform.scale({'w': torch.ones(2, 3)})
    state = scale.init({'w': torch.ones(3)})
    with pytest.raises(ValueError, match=r"factor\['w'\] does not fit updates\['w'\]"):
        scale.update({'w': torch.ones(3)}, state)
