"""Everything stored: the plain graph of all steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchopt import pytree
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop, Sweep, rows_of, sweep
from torchopt.unrolling.strategy import Strategy


@dataclass(frozen=True)
class Stored(Strategy):
    """Keep the graph of every step, as a Python loop would.

    The fastest backward pass, with memory for all intermediate results of all steps. The only
    choice inside ``torch.func.grad``, ``vjp``, ``jvp`` and ``torch.compile``, and one of two that
    can be differentiated again.
    """

    traceable: ClassVar[bool] = True

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        return stored_sweep(loop).unflatten(loop)


def stored_sweep(loop: Loop) -> Sweep:
    """Run ``loop`` under autograd, if that is on."""
    x = rows_of(loop.xs)

    def advance(number: int, carry: Leaves) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        return loop.run_step(number, carry, x(number), loop.consts)

    return sweep(loop, advance)
