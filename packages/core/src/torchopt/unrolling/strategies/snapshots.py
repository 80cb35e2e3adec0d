"""Some carries stored: binomial checkpointing, for loops of known and of unknown length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.engine import Compilation, engine_for
from torchopt.unrolling.storage.choice import Place, storage_named
from torchopt.unrolling.storage.tape import Tape
from torchopt.unrolling.strategies import revolve
from torchopt.unrolling.strategies.base import Strategy, options_of
from torchopt.unrolling.strategies.checkpointed import run_checkpointed
from torchopt.unrolling.strategies.record import Schedule
from torchopt.unrolling.strategies.reversal import Advance, reversed_checkpoints


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
            backend of ``torch.compile`` to do it with. True stands for ``'inductor'``; for a step
            with large convolutions on the CPU, for ``'aot_eager'``, which runs them as fast and
            compiles them in a tenth of the time.
        storage: Where carries are kept, see :data:`torchopt.unrolling.Place`: on their
            ``'device'``, in the memory of the ``'cpu'``, or on a
            :class:`~torchopt.unrolling.Disk`, where a killed run can go on.

    Raises:
        ValueError: ``count`` is less than 1, or ``storage`` is unknown.
    """

    count: int | None = None
    compile: Compilation = False
    storage: Place = 'device'

    def __post_init__(self) -> None:
        storage_named(self.storage)
        if self.count is not None and self.count < 1:
            raise ValueError(f'count must be at least 1, got {self.count}')

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        schedule: Schedule
        if loop.length is None or loop.until is not None:
            schedule = OnlineSchedule(self.count)
        else:
            schedule = OfflineSchedule(loop.length, self.count or _about_root(loop.length))
        storage = storage_named(self.storage)
        engine = engine_for(loop, self.compile, keeps_layout=storage.keeps_layout)
        return run_checkpointed(loop, schedule, engine, storage, options_of(self))


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

    def keep(self, numbers: list[int], number: int) -> None:
        """Add ``number`` if Revolve's first run takes a snapshot there."""
        if number in self._first:
            numbers.append(number)

    def reverse(self, tape: Tape, taken: int, advance: Advance) -> Iterator[Checkpoint]:
        """Yield the checkpoints of all steps, from the last to the first."""
        return reversed_checkpoints(tape, taken, self._count, advance)


class OnlineSchedule:
    """Checkpoints of a loop of unknown length: their distance doubles when there are too many."""

    name = 'Snapshots'
    differentiable_again = False
    gradient_order: Order | None = None
    keeps_all = False

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._distance = 1

    def keep(self, numbers: list[int], number: int) -> None:
        """Add ``number``, and drop what the distance no longer allows."""
        if numbers and numbers[-1] % self._distance:
            numbers.pop()  # was kept only while it was the last one
        while number % self._distance == 0 and self._is_full(numbers):
            self._distance *= 2
            numbers[:] = [kept for kept in numbers if kept % self._distance == 0]
        numbers.append(number)

    def _is_full(self, numbers: list[int]) -> bool:
        return len(numbers) >= (self._count or 2 * self._distance)

    def reverse(self, tape: Tape, taken: int, advance: Advance) -> Iterator[Checkpoint]:
        """Yield the checkpoints of all steps, from the last to the first."""
        if tape.numbers and tape.numbers[-1] == taken - 1:
            taken -= 1
            yield tape.pop()
        count = self._count or max(_about_root(taken + 1), len(tape.numbers))
        if 1 < len(tape.numbers) <= min(count, _MOST_TO_THIN):
            tape.retain(revolve.worth_keeping(tape.numbers, taken, count))
        yield from reversed_checkpoints(tape, taken, count, advance)
