"""Some carries stored: binomial checkpointing, also of loops of unknown length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torchopt.unrolling import revolve
from torchopt.unrolling.compiled import Compilation, engine_for
from torchopt.unrolling.engine import Point
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.node import Memory, run_as_node
from torchopt.unrolling.strategy import Strategy


@dataclass(frozen=True)
class Snapshots(Strategy):
    """Keep few carries, and run the steps between them again.

    Memory: ``count`` carries, that before the last step, and the graph of one step. Time: the
    least possible number of additional evaluations, those of Griewank and Walther, *Algorithm 799:
    Revolve*, ACM Transactions on Mathematical Software 26(1), 2000. Where the number of steps is
    not known ahead (``until``), equally distant carries are kept, and every other one is dropped
    when there are too many; the steps between them are then reversed in the best way.

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
        memory: Memory
        if loop.length is None or loop.until is not None:
            memory = _Online(self.count)
        else:
            memory = _Offline(loop.length, self.count or _about_root(loop.length))
        return run_as_node(loop, memory, engine_for(loop, self.compile))


def _about_root(length: int) -> int:
    return max(1, math.ceil(math.sqrt(length)))


# So many snapshots stand close enough, and a choice among them takes its time.
_MANY = 48


class _Offline:
    """The number of steps is known: snapshots are taken where they are needed in the end."""

    name = 'Snapshots'
    differentiable_again = False

    def __init__(self, length: int, count: int) -> None:
        self._count = count
        # Revolve starts from the last carry, which costs it no snapshot.
        self._first = {*revolve.first_snapshots(length, count), length - 1}

    def new_tape(self) -> None:
        return None

    def keep(self, points: list[Point], point: Point) -> None:
        if point.number in self._first:
            points.append(point)

    def reverse(
        self, points: list[Point], taken: int, advance: Callable[[Point], Point]
    ) -> Iterator[Point]:
        return _reverse(points, taken, self._count, advance)


class _Online:
    """The number of steps is not known: the distance of snapshots doubles when they are many."""

    name = 'Snapshots'
    differentiable_again = False

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._distance = 1

    def new_tape(self) -> None:
        return None

    def keep(self, points: list[Point], point: Point) -> None:
        if points and points[-1].number % self._distance:
            points.pop()  # was kept as the last carry only
        while point.number % self._distance == 0 and self._is_full(points):
            self._distance *= 2
            points[:] = [kept for kept in points if kept.number % self._distance == 0]
        points.append(point)

    def _is_full(self, points: list[Point]) -> bool:
        return len(points) >= (self._count or 2 * self._distance)

    def reverse(
        self, points: list[Point], taken: int, advance: Callable[[Point], Point]
    ) -> Iterator[Point]:
        if points:
            yield points.pop()
        count = self._count or max(_about_root(taken), len(points))
        if 1 < len(points) <= _MANY:
            numbers = revolve.worth_keeping([p.number for p in points], taken - 1, count)
            points[:] = [point for point in points if point.number in numbers]
        yield from _reverse(points, taken - 1, count, advance)


def _reverse(
    held: list[Point], end: int, count: int, advance: Callable[[Point], Point]
) -> Iterator[Point]:
    """Yield the points from ``end - 1`` to 0, holding at most ``count`` of them."""
    while held:
        length = end - held[-1].number
        if length == 1:
            end -= 1
            yield held.pop()
            continue
        free = count - len(held)
        point = held[-1]
        for _ in range(revolve.split(length, free + 1)):
            point = advance(point)
        if free:
            held.append(point)
        else:
            end -= 1
            yield point
