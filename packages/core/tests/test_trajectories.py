"""Trajectories of 100 steps in float64 against torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import TORCH_CASES, OptimizerCase
from support.trees import assert_trees_close, copied, sample_gradients, sample_params
from torchopt import pytree

STEPS = 100
Gradients = Callable[[Any, int], Any]


def dense(params: Any, step: int) -> Any:
    return sample_gradients(params, step)


def sparse(params: Any, step: int) -> Any:
    return sample_gradients(params, step, sparse=True)


def run_torch(
    case: OptimizerCase,
    params: Any,
    gradients: Gradients,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    **overrides: Any,
) -> Any:
    params = copied(params)
    leaves = pytree.tree_leaves(params)
    optimizer = case.make_torch(leaves, **overrides)
    scheduler = schedule(optimizer) if schedule else None
    for step in range(STEPS):
        for leaf, gradient in zip(
            pytree.tree_leaves(params, none_is_leaf=True),
            pytree.tree_leaves(gradients(params, step), none_is_leaf=True),
        ):
            if leaf is not None:
                leaf.grad = gradient
        optimizer.step()
        if scheduler:
            scheduler.step()
    return params


def run_functional(
    case: OptimizerCase, params: Any, gradients: Gradients, *, inplace: bool, **overrides: Any
) -> Any:
    params = copied(params)
    optimizer = case.make(**overrides)
    state = optimizer.init(params)
    for step in range(STEPS):
        updates, state = optimizer.update(
            gradients(params, step), state, params=params, inplace=inplace
        )
        # With moment_requires_grad everything depends on the initial moments: 100 steps of graph.
        updates, state = pytree.tree_map(torch.Tensor.detach, (updates, state))
        params = torchopt.apply_updates(params, updates, inplace=inplace)
    return params


@pytest.mark.slow
@pytest.mark.parametrize('inplace', [True, False], ids=['inplace', 'functional'])
@pytest.mark.parametrize('gradients', [dense, sparse])
@pytest.mark.parametrize('case', TORCH_CASES, ids=str)
def test_functional_equals_torch(case: OptimizerCase, gradients: Gradients, inplace: bool) -> None:
    params = case.params_for_torch(sample_params())
    actual = run_functional(case, params, gradients, inplace=inplace)
    assert_trees_close(actual, run_torch(case, params, gradients))


@pytest.mark.parametrize('case', TORCH_CASES, ids=str)
def test_class_equals_torch(case: OptimizerCase) -> None:
    params = [
        leaf.requires_grad_() for leaf in pytree.tree_leaves(case.params_for_torch(sample_params()))
    ]
    expected = run_torch(case, params, sparse)
    optimizer = case.make_class(params)
    for step in range(STEPS):
        for param, gradient in zip(params, sparse(params, step)):
            param.grad = gradient
        optimizer.step()
    assert_trees_close(params, expected)


def linear_decay(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=60, power=1.0)


def cubic_decay(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=60, power=3.0)


def exponential(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97)


def staircase(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.8)


@pytest.mark.parametrize(
    ('schedule', 'theirs'),
    [
        (torchopt.linear_schedule(0.1, 0.0, 60), linear_decay),
        (torchopt.polynomial_schedule(0.1, 0.0, 3, 60), cubic_decay),
        (torchopt.exponential_decay(0.1, 1, 0.97), exponential),
        (torchopt.exponential_decay(0.1, 7, 0.8, staircase=True), staircase),
    ],
    ids=['linear', 'polynomial', 'exponential', 'staircase'],
)
@pytest.mark.slow
@pytest.mark.parametrize('inplace', [True, False], ids=['inplace', 'functional'])
@pytest.mark.parametrize(
    'case', [case for case in TORCH_CASES if case.label == 'defaults'], ids=str
)
def test_schedule_equals_torchs_scheduler(
    case: OptimizerCase, schedule: Any, theirs: Any, inplace: bool
) -> None:
    params = case.params_for_torch(sample_params())
    actual = run_functional(case, params, dense, inplace=inplace, lr=schedule)
    assert_trees_close(actual, run_torch(case, params, dense, theirs, lr=0.1))


@pytest.mark.newer_torch
@pytest.mark.parametrize(
    'case', [case for case in TORCH_CASES if case.label.startswith('all')], ids=str
)
def test_groups_with_hyperparameters_of_their_own_equal_torchs(case: OptimizerCase) -> None:
    mine, theirs = (
        [torch.linspace(-k, k, 4, dtype=torch.float64).view(2, 2).requires_grad_() for k in (1, 2)]
        for _ in range(2)
    )
    overrides = {'lr': 0.2}
    if 'weight_decay' in case.options:
        overrides['weight_decay'] = 0.01
    unmasked = {'mask': None} if case.has('mask') else {}
    optimizer = case.make_class(
        [{'params': mine[:1]}, {'params': mine[1], **overrides}], **unmasked
    )
    reference = case.make_torch(theirs[:1], mask=None)
    reference.add_param_group({'params': theirs[1:], **overrides})
    for step in range(STEPS):
        gradients = sample_gradients(mine, step, sparse=True)
        for a, b, gradient in zip(mine, theirs, gradients):
            a.grad, b.grad = gradient, gradient
        optimizer.step()
        reference.step()
    assert_trees_close(mine, theirs)
