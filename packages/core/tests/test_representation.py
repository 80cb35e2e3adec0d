"""How transformations are shown, pickled and copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, OptimizerCase, decays_matrices
from support.trees import assert_trees_equal, sample_gradients, sample_params

RATE = torch.tensor(0.1, requires_grad=True)


@pytest.mark.parametrize(
    ('transformation', 'text'),
    [
        (torchopt.adam(), 'adam()'),
        (torchopt.adam(0.1, eps=1e-8), 'adam(lr=0.1)'),
        (torchopt.sgd(RATE), 'sgd(lr=tensor(0.1, requires_grad=True))'),
        (torchopt.base.identity(), 'identity()'),
        (
            torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.transform.scale(2.0)),
            'chain(clip_grad_norm(max_norm=1.0), scale(factor=2.0))',
        ),
        (
            torchopt.transform.masked(torchopt.sgd(0.5), decays_matrices),
            'masked(inner=sgd(lr=0.5), mask=decays_matrices)',
        ),
    ],
)
def test_repr_shows_names_and_hyperparameters(
    transformation: torchopt.GradientTransformation, text: str
) -> None:
    assert repr(transformation) == text


def test_a_functional_optimizer_shows_its_transformation() -> None:
    assert repr(torchopt.FuncOptimizer(torchopt.sgd(0.5))) == 'FuncOptimizer(sgd(lr=0.5))'


def three_steps(optimizer: torchopt.GradientTransformation) -> Any:
    params = sample_params()
    state = optimizer.init(params)
    for step in range(3):
        with torch.no_grad():
            updates, state = optimizer.update(
                sample_gradients(params, step), state, params=params, inplace=False
            )
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


@pytest.mark.parametrize('case', CASES, ids=str)
def test_a_pickle_is_the_same_optimizer(case: OptimizerCase) -> None:
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), case.make())
    with torch.no_grad():
        assert_trees_equal(
            three_steps(pickle.loads(pickle.dumps(optimizer))), three_steps(optimizer)
        )


@pytest.mark.parametrize(
    'schedule',
    [
        torchopt.linear_schedule(0.1, 0.0, 5),
        torchopt.polynomial_schedule(0.1, 0.0, 2, 5),
        torchopt.exponential_decay(0.1, 2, 0.5, end_value=0.01),
    ],
)
def test_schedules_are_pickled(schedule: Any) -> None:
    optimizer = pickle.loads(pickle.dumps(torchopt.adam(schedule)))
    assert_trees_equal(three_steps(optimizer), three_steps(torchopt.adam(schedule)))


def test_a_copy_learns_the_same_tensor() -> None:
    optimizer = torchopt.sgd(RATE)
    for copied in (copy.copy(optimizer), copy.deepcopy(optimizer)):
        assert copied is optimizer
