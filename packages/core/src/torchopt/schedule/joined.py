"""Schedules one after the other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.schedule.counts import as_float64
from torchopt.typing import Scalar, Schedule, TensorTree


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[Scalar]) -> Schedule:
    """Follow each schedule up to its boundary, then the next one.

    Args:
        schedules: Each counts from 0 at the boundary at which it begins. They return numbers,
            0-dim tensors, or trees of one structure.
        boundaries: The numbers of steps at which the second schedule begins, the third, and so
            on, in ascending order. The derivative with respect to a boundary that is a tensor
            leaves out what the jump there, if there is one, would add.

    Raises:
        ValueError: there is not one schedule more than there are boundaries, or the boundaries do
            not ascend.
        TypeError: a schedule is not callable.
    """
    schedules, boundaries = tuple(schedules), tuple(boundaries)
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f'{len(schedules)} schedules have {len(schedules) - 1} boundaries between them, '
            f'got {len(boundaries)}'
        )
    for position, schedule in enumerate(schedules):
        if not callable(schedule):
            raise TypeError(f'schedules[{position}] must be callable, got {schedule!r}')
    require_ascending('boundaries', boundaries)
    return functools.partial(_joined, schedules=schedules, boundaries=boundaries)


def require_ascending(name: str, values: Sequence[Scalar]) -> None:
    """Raise ValueError unless the values are at least 0 and ascend; tensors are not looked at."""
    known = [value for value in values if not isinstance(value, torch.Tensor)]
    for value in known:
        checks.nonnegative(name, value)
    if any(after <= before for before, after in itertools.pairwise(known)):
        raise ValueError(f'{name} must ascend, got {list(values)}')


def _joined(
    count: torch.Tensor, *, schedules: Sequence[Schedule], boundaries: Sequence[Scalar]
) -> Any:
    taken = as_float64(count)
    value: Any = schedules[0](taken)
    for boundary, schedule in zip(boundaries, schedules[1:]):
        value = _switched(taken < boundary, value, schedule(taken - boundary), taken)
    return value


def _switched(early: torch.Tensor, before: Any, after: Any, like: torch.Tensor) -> TensorTree:
    def choose(x: Any, y: Any) -> torch.Tensor:
        # A float32 number keeps its digits: torch.where would take float32 for the result.
        return torch.where(early, like.new_zeros(()) + x, like.new_zeros(()) + y)

    return pytree.tree_map(choose, before, after)
