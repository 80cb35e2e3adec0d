"""Multiplication of updates by a factor that changes from step to step."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.rates import with_tensors
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import as_float, shared_device
from torchopt.authoring.torch_state import torch_fields
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import Params, Schedule, Updates


@saveable
@torch_fields(steps='schedule_step')
class ScaleByScheduleState(NamedTuple):
    """State of :func:`scale_by_schedule`.

    Attributes:
        steps: Number of updates made so far, a 0-dim int64 tensor.
    """

    steps: torch.Tensor


@recorded
def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Multiply updates by ``schedule(count)``.

    Args:
        schedule: Maps the number of updates made so far, a 0-dim float64 tensor that is 0 at the
            first update, to a number, a 0-dim tensor, or a tree of numbers and tensors with the
            structure of the updates.

    Raises:
        TypeError: ``schedule`` is not callable.
        ValueError: at ``update``, the schedule returns a tensor that is not 0-dim, or a tree that
            does not fit the updates.
    """
    if not callable(schedule):
        raise TypeError(f'schedule must be callable, got {schedule!r}')

    def init(params: Params) -> ScaleByScheduleState:
        return ScaleByScheduleState(
            torch.zeros((), dtype=torch.int64, device=shared_device(params))
        )

    def update(
        updates: Updates, state: ScaleByScheduleState, params: Params | None
    ) -> tuple[Any, ScaleByScheduleState]:
        if not isinstance(state, ScaleByScheduleState):
            raise wrong_state(state, ScaleByScheduleState)
        factor = schedule(as_float(state.steps))
        if isinstance(factor, torch.Tensor) and factor.dim() != 0:
            raise ValueError(
                'a schedule must return a number or a 0-dim tensor, or a tree of rates, '
                f'got a tensor of shape {tuple(factor.shape)}'
            )
        if checks.is_tree(factor):
            rates = {'schedule(count)': with_tensors(factor)}
            scaled = map_updates(operator.mul, updates, rates, broadcast=True)
        else:
            scaled = map_updates(lambda g: g * factor, updates)
        return scaled, ScaleByScheduleState(state.steps + 1)

    return transformation(init, update)
