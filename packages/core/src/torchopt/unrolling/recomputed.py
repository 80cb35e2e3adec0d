"""Every carry stored, and one step at a time recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from torchopt.unrolling.compiled import Compilation, engine_for
from torchopt.unrolling.engine import Point
from torchopt.unrolling.inner_gradient import Tape
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.node import run_as_node
from torchopt.unrolling.products import Order
from torchopt.unrolling.strategy import Strategy


@dataclass(frozen=True)
class Recomputed(Strategy):
    """Keep the carry before every step; in the backward pass run one step again at a time.

    The loop is one node of the graph. Memory: K carries and the graph of one step. Time: one more
    evaluation of every step. It can be differentiated again; that pass needs the memory of
    :class:`Stored`.

    Attributes:
        keep_gradients: Also keep what :func:`torchopt.unrolling.grad` returned in each step, so
            that a step is differentiated in two parts, of which each needs less memory: what
            follows the inner gradient, then the inner gradient itself.
        order: How the inner gradient is differentiated then, see
            :data:`torchopt.unrolling.Order`. Which is fastest depends on the device and the model.
        compile: Compile one step and its derivative, once for any number of steps; True, or the
            backend of ``torch.compile`` to do it with.

    Raises:
        ValueError: ``keep_gradients`` and ``compile`` are both on (a compiled step cannot be
            interrupted for its gradient), or ``order`` is unknown.
    """

    keep_gradients: bool = False
    order: Order = 'reverse-over-reverse'
    compile: Compilation = False

    def __post_init__(self) -> None:
        if self.keep_gradients and self.compile:
            raise ValueError('Recomputed takes keep_gradients=True or compile=True, not both')
        if self.order not in get_args(Order):
            raise ValueError(f'order must be one of {get_args(Order)}, got {self.order!r}')

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        return run_as_node(loop, _EveryCarry(self), engine_for(loop, self.compile))


class _EveryCarry:
    name = 'Recomputed'
    differentiable_again = True

    def __init__(self, options: Recomputed) -> None:
        self._options = options

    def new_tape(self) -> Tape | None:
        return Tape(self._options.order) if self._options.keep_gradients else None

    def keep(self, points: list[Point], point: Point) -> None:
        points.append(point)

    def reverse(
        self, points: list[Point], taken: int, advance: Callable[[Point], Point]
    ) -> Iterator[Point]:
        while points:
            yield points.pop()
