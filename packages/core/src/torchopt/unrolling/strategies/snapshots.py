"""Some carries stored: binomial checkpointing, for loops of known and of unknown length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.engine import Compilation, engine_for
from torchopt.unrolling.strategies import revolve
from torchopt.unrolling.strategies.base import Strategy
from torchopt.unrolling.strategies.checkpointed import Schedule, run_checkpointed


@dataclass(frozen=True)
class Snapshots(Strategy):
    """Keep few carries, and run the steps between them again.

    Memory: ``count`` carries, the carry before the last step, and the graph of one step. Time: the
    least possible number of additional evaluations, see Griewank and Walther, *Algorithm 799:
    Revolve*, ACM Transactions on Mathematical Software 26(1), 2000. Where the number of steps is
    not known ahead (``until``), the loop keeps equally spaced carries, and drops every other one
    when there are too many. The backward pass then reverses the steps between them in the best way.

    Attributes:
        count: How many carries are kept at a time, the initial one among them; None: about the
            square root of the number of steps, which costs at most two additional evaluations of
            a step.
        compile: Compile one step and its derivative, once for any number of steps; True, or the
            backend of ``torch.compile`` to do it with.

    Raises:
        ValueError: ``count`` is less than 1.
    """

    count: int | None = None
    compile: Compilation = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f'count must be at least 1, got {self.count}')

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        schedule: Schedule
        if loop.length is None or loop.until is not None:
            schedule = OnlineSchedule(self.count)
        else:
            schedule = OfflineSchedule(loop.length, self.count or _about_root(loop.length))
        return run_checkpointed(loop, schedule, engine_for(loop, self.compile))


def _about_root(length: int) -> int:
    return max(1, math.ceil(math.sqrt(length)))


# Beyond this, thinning costs O(n³) and gains little.
_MOST_TO_THIN = 48


class OfflineSchedule:
    """Checkpoints of a loop of known length: taken where the backward pass wants them."""

    name = 'Snapshots'
    differentiable_again = False
    gradient_order: Order | None = None
    keeps_all = False

    def __init__(self, length: int, count: int) -> None:
        self._count = count
        # Revolve begins at the last carry, which its count does not include.
        self._first = {*revolve.first_snapshots(length, count), length - 1}

    def keep(self, checkpoints: list[Checkpoint], checkpoint: Checkpoint) -> None:
        """Add ``checkpoint`` if Revolve's first run takes a snapshot there."""
        if checkpoint.number in self._first:
            checkpoints.append(checkpoint)

    def reverse(
        self,
        checkpoints: list[Checkpoint],
        taken: int,
        advance: Callable[[Checkpoint], Checkpoint],
    ) -> Iterator[Checkpoint]:
        """Yield the checkpoints of all steps, from the last to the first."""
        return _reverse(checkpoints, taken, self._count, advance)


class OnlineSchedule:
    """Checkpoints of a loop of unknown length: their distance doubles when there are too many."""

    name = 'Snapshots'
    differentiable_again = False
    gradient_order: Order | None = None
    keeps_all = False

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._distance = 1

    def keep(self, checkpoints: list[Checkpoint], checkpoint: Checkpoint) -> None:
        """Add ``checkpoint``, and drop what the distance no longer allows."""
        if checkpoints and checkpoints[-1].number % self._distance:
            checkpoints.pop()  # was kept only while it was the last one
        while checkpoint.number % self._distance == 0 and self._is_full(checkpoints):
            self._distance *= 2
            checkpoints[:] = [kept for kept in checkpoints if kept.number % self._distance == 0]
        checkpoints.append(checkpoint)

    def _is_full(self, checkpoints: list[Checkpoint]) -> bool:
        return len(checkpoints) >= (self._count or 2 * self._distance)

    def reverse(
        self,
        checkpoints: list[Checkpoint],
        taken: int,
        advance: Callable[[Checkpoint], Checkpoint],
    ) -> Iterator[Checkpoint]:
        """Yield the checkpoints of all steps, from the last to the first."""
        if checkpoints:
            yield checkpoints.pop()
        count = self._count or max(_about_root(taken), len(checkpoints))
        if 1 < len(checkpoints) <= _MOST_TO_THIN:
            numbers = [checkpoint.number for checkpoint in checkpoints]
            numbers = revolve.worth_keeping(numbers, taken - 1, count)
            checkpoints[:] = [kept for kept in checkpoints if kept.number in numbers]
        yield from _reverse(checkpoints, taken - 1, count, advance)


def _reverse(
    held: list[Checkpoint], end: int, count: int, advance: Callable[[Checkpoint], Checkpoint]
) -> Iterator[Checkpoint]:
    """Yield the checkpoints from step ``end - 1`` to step 0, holding at most ``count`` of them."""
    while held:
        length = end - held[-1].number
        if length == 1:
            end -= 1
            yield held.pop()
            continue
        free = count - len(held)
        checkpoint = held[-1]
        for _ in range(revolve.split(length, free + 1)):
            checkpoint = advance(checkpoint)
        if free:
            held.append(checkpoint)
        else:
            end -= 1
            yield checkpoint
