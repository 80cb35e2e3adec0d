"""A run through all steps of a loop, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.authoring.shards import is_whole
from torchopt.authoring.state import without_states
from torchopt.authoring.step_marks import any_since, mark_step, next_number, recording
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, call_step, require_alike

Advance: TypeAlias = Callable[[int, Leaves, Leaves], StepResult]
"""Runs the step of a number on a carry and an ``x``, both flat."""


class Sweep(NamedTuple):
    """The result of a run through all steps.

    Attributes:
        carry: Leaves of the last carry.
        ys: Leaves of all ``y``, stacked.
        structure: Tree of ``y``; None if no step was taken.
        taken: Number of steps taken.
    """

    carry: Leaves
    ys: Leaves
    structure: pytree.PyTreeSpec | None
    taken: int

    def unflatten(self, loop: Loop) -> tuple[Any, Any]:
        """Return the trees ``(carry, ys)``."""
        carry = pytree.tree_unflatten(loop.carry_structure, self.carry)
        if self.structure is None:
            return carry, None
        return carry, pytree.tree_unflatten(self.structure, self.ys)


class Start(NamedTuple):
    """Where a run begins that goes on after an interruption.

    Attributes:
        number: Number of the first step to run.
        carry: Leaves of the carry before it.
        ys: Leaves of every earlier ``y``; they may be filled in while the first step runs.
    """

    number: int
    carry: Leaves
    ys: list[Leaves]


def sweep(loop: Loop, advance: Advance | None = None, start: Start | None = None) -> Sweep:
    """Run ``loop`` to its end.

    Args:
        loop: What to run.
        advance: How a step is run; None: as it is, recorded by autograd if grad mode is on.
        start: Where to begin; None: with the initial carry.

    Raises:
        ValueError: two steps return different trees as ``y``.
    """
    first, carry, ys_by_step = start or Start(0, loop.carry, [])
    structure = None
    row = loop.rows()
    numbers = range(first, loop.length) if loop.length is not None else itertools.count(first)
    for number in numbers:
        if _stops(loop, carry):
            break
        if advance is None:
            result = _recorded(loop, number, [*carry, *row(number), *loop.consts])
        else:
            result = advance(number, carry, row(number))
        carry, y, y_structure = result
        if structure is None:
            structure = y_structure
        else:
            step = loop.first + number
            require_alike(ys_by_step[0], structure, y, y_structure, name='y', step=step)
        ys_by_step.append(y)
        _report(loop, len(ys_by_step), result)
    return Sweep(carry, stacked(ys_by_step), structure, len(ys_by_step))


def _recorded(loop: Loop, number: int, arguments: Leaves) -> StepResult:
    """Run a step as it is. If it has not marked what it made, mark its carry as a step."""
    if not recording():
        return call_step(loop, number, arguments)
    before = next_number()
    result = call_step(loop, number, arguments)
    if not any_since(result.carry, before):
        both = (arguments[: len(loop.carry)], result.carry)
        old, new = (pytree.tree_unflatten(loop.carry_structure, leaves) for leaves in both)
        mark_step(without_states(old), without_states(new), 'unroll')
    return result


def stacked(ys: Iterable[Leaves]) -> Leaves:
    """Return the leaves of all ``y``, each stacked along a new first dimension."""
    return [None if column[0] is None else torch.stack(column) for column in zip(*ys)]


def _stops(loop: Loop, carry: Leaves) -> bool:
    if loop.until is None:
        return False
    answer = loop.until(pytree.tree_unflatten(loop.carry_structure, carry))
    if not is_whole(answer):
        raise RuntimeError(
            f'until returned {describe(answer)}, of which each rank has a part, so that ranks '
            'would end the loop at different steps and wait for each other: return '
            'answer.full_tensor()'
        )
    try:
        return bool(answer)
    except RuntimeError as error:
        raise RuntimeError(
            'until must give one bool for the whole carry. Under torch.vmap and in a compiled '
            'function its value is not known: give a fixed number of steps there'
        ) from error


def _report(loop: Loop, taken: int, result: StepResult) -> None:
    if loop.progress is not None:
        loop.progress(
            loop.first + taken,
            pytree.tree_unflatten(loop.carry_structure, result.carry),
            pytree.tree_unflatten(result.y_structure, result.y),
        )
