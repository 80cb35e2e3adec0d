"""Binomial checkpointing takes the least possible number of evaluations."""

from __future__ import annotations

import functools
import itertools
from typing import Any, cast

import pytest
import torch

import torchopt
from torchopt.unrolling import Snapshots
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.device import OnDevice
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies import revolve
from torchopt.unrolling.strategies.snapshots import OfflineSchedule, OnlineSchedule


@functools.cache
def least(length: int, snapshots: int) -> int:
    """The minimum over all schedules, by dynamic programming."""
    if length == 1:
        return 0
    if snapshots == 1:
        return length * (length - 1) // 2
    return min(
        ahead + least(length - ahead, snapshots - 1) + least(ahead, snapshots)
        for ahead in range(1, length)
    )


@pytest.mark.parametrize('snapshots', range(1, 13))
def test_formula_and_split_are_optimal(snapshots: int) -> None:
    for length in range(1, 201):
        assert revolve.evaluations(length, snapshots) == least(length, snapshots)
        if length > 1 and snapshots > 1:
            ahead = revolve.split(length, snapshots)
            parts = least(length - ahead, snapshots - 1) + least(ahead, snapshots)
            assert ahead + parts == least(length, snapshots)


RANDOM = RandomState.capture([])


def reversal(schedule: Any, length: int) -> tuple[int, list[int], int]:
    """Run a schedule alone; return evaluations, order of the steps, and most checkpoints held."""
    held = Tape(OnDevice().open(cast(Any, None), cast(Any, None)).store)
    most = 0
    for number in range(length):
        held.offer(Checkpoint(number, [], RANDOM, []), schedule.keep)
        most = max(most, len(held.numbers))
    assert held.numbers == sorted({*held.numbers})
    evaluations = 0

    def advance(checkpoint: Checkpoint) -> Checkpoint:
        nonlocal evaluations
        evaluations += 1
        return checkpoint._replace(number=checkpoint.number + 1)

    order = []
    for checkpoint in schedule.reverse(held, length, advance):
        order.append(checkpoint.number)
        most = max(most, len(held.numbers))
    return evaluations, order, most


@pytest.mark.parametrize('count', range(1, 13))
def test_snapshots_take_exactly_the_binomial_number_of_evaluations(count: int) -> None:
    for length in range(1, 201):
        evaluations, order, most = reversal(OfflineSchedule(length, count), length)
        assert order == list(reversed(range(length)))
        assert most <= min(count + 1, length)
        # The forward pass has already evaluated every step but the last.
        assert evaluations == revolve.evaluations(length, count) - (length - 1)


@pytest.mark.parametrize('count', [1, 2, 3, 5, 8, None])
def test_online_snapshots_stay_few(count: int | None) -> None:
    for length in itertools.chain(range(1, 60), (200, 1000)):
        evaluations, order, most = reversal(OnlineSchedule(count), length)
        assert order == list(reversed(range(length)))
        if count is None:
            assert most <= 3 * length**0.5 + 2
            assert evaluations <= 2 * length
        else:
            assert most <= count + 1
            assert evaluations <= 2 * revolve.evaluations(length, count)


@pytest.mark.parametrize('count', [1, 3, None])
def test_evaluations_of_a_step(count: int | None) -> None:
    length, calls = 17, 0

    def step(carry: Any, x: Any, consts: Any) -> Any:
        nonlocal calls
        calls += 1
        return carry * consts, None

    w = torch.tensor(0.9, requires_grad=True)
    end, _ = torchopt.unroll(step, w, consts=w, length=length, backward=Snapshots(count))
    assert calls == length
    end.backward()
    # The forward pass evaluates one step more than in Revolve; each step is differentiated once.
    assert calls == revolve.evaluations(length, count or 5) + 1 + length
