"""Plain optimizers of building blocks: steps, and checkpoints in torch's format."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

import torchopt
from support.block_cases import BLOCKS, BlockCase, by_dimension
from support.trees import assert_trees_close, assert_trees_equal
from support.unrolled import START
from torchopt import transform as t

LR = {'lr': 0.1}
CASES = [
    *BLOCKS,
    BlockCase('schedule', lambda lr: torchopt.sgd(lambda count: lr / (1 + count)), LR),
    # Several rules that count steps, of other parameters or in another rhythm.
    BlockCase(
        'two_counts',
        lambda lr: t.partition(
            {'matrix': torchopt.adam(lr), 'other': torchopt.adam(2 * lr)}, by_dimension
        ),
        LR,
    ),
    BlockCase(
        'two_rhythms',
        lambda lr: torchopt.chain(t.ema(0.5), t.accumulate_gradients(torchopt.adam(lr), 2)),
        LR,
    ),
]
every_case = pytest.mark.parametrize('case', CASES, ids=str)


def frozen_and_trained() -> list[torch.nn.Parameter]:
    """The first parameter takes no step, so that a checkpoint has no entry of its own for it."""
    frozen = torch.nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
    return [frozen, *(torch.nn.Parameter(value.clone()) for value in START.values())]


def step(optimizer: torch.optim.Optimizer, params: list[Any], count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        sum(param.sin().sum() for param in params).backward()
        optimizer.step()


@every_case
@pytest.mark.parametrize('before', [1, 3])
def test_saved_and_resumed(case: BlockCase, before: int) -> None:
    whole, part = frozen_and_trained(), frozen_and_trained()
    step(torchopt.Optimizer(whole, case.make()), whole, 6)
    first = torchopt.Optimizer(part, case.make())
    step(first, part, before)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = torchopt.Optimizer(part, case.make())
    second.load_state_dict(torch.load(file, weights_only=True))
    step(second, part, 6 - before)
    assert_trees_equal(part, whole)


@every_case
def test_equals_the_functional_steps(case: BlockCase) -> None:
    params = frozen_and_trained()
    step(torchopt.Optimizer(params, case.make()), params, 4)
    optimizer, expected = case.make(), frozen_and_trained()
    state = optimizer.init(expected)
    with torch.no_grad():
        for _ in range(4):
            gradients = [None, *(param.cos() for param in expected[1:])]
            updates, state = optimizer.update(gradients, state, params=expected)
            torchopt.apply_updates(expected, updates)
    assert_trees_close(params, expected)


@every_case
def test_each_parameter_has_its_own_tensors(case: BlockCase) -> None:
    """An entry that held the state of all would grow with their number."""
    params = frozen_and_trained()
    optimizer = torchopt.Optimizer(params, case.make())
    step(optimizer, params, 1)
    for param in params[1:]:
        shapes = {value.shape for value in optimizer.state[param].values()}
        assert shapes <= {param.shape, torch.Size()}
