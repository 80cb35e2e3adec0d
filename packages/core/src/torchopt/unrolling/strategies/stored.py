"""Everything stored: the plain graph of all steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchopt.unrolling.loop import Loop
from torchopt.unrolling.strategies.base import Strategy
from torchopt.unrolling.sweep import sweep


@dataclass(frozen=True)
class Stored(Strategy):
    """Keep the graph of every step, as a Python loop would.

    This has the fastest backward pass, and needs memory for all intermediate results of all steps.
    It is the only strategy inside ``torch.func.grad``, ``vjp``, ``jvp`` and ``torch.compile``, and
    one of two whose backward pass can be differentiated again.
    """

    traceable: ClassVar[bool] = True

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        return sweep(loop).unflatten(loop)
