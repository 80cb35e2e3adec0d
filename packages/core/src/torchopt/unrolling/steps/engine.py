"""The interface of what runs and differentiates one step, and the choice of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.compilation import Compilation as Compilation
from torchopt.unrolling.steps.compilation import backend_of
from torchopt.unrolling.steps.compiled import Compiled
from torchopt.unrolling.steps.eager import Eager
from torchopt.unrolling.vjp import Cotangents


class Engine(Protocol):
    """Runs and differentiates steps."""

    def run(self, loop: Loop, checkpoint: Checkpoint, x: Leaves) -> StepResult:
        """Run a step without a graph."""
        ...

    def vjp(
        self,
        loop: Loop,
        checkpoint: Checkpoint,
        x: Leaves,
        cotangents: Cotangents,
        needed: Sequence[bool],
    ) -> Cotangents:
        """Run a step again, and return the cotangents of its inputs.

        Args:
            loop: The loop of the step.
            checkpoint: What was stored before the step.
            x: Leaves of the step's slice of xs.
            cotangents: One for every tensor of the next carry, then of ``y``.
            needed: Which tensors of the carry, of ``x`` and of consts need a cotangent.

        Returns:
            One cotangent for every tensor of the carry, then of ``x``, then of consts.
        """
        ...


def engine_for(loop: Loop, compile: Compilation) -> Engine:
    """Return the engine that runs the steps of ``loop``."""
    backend = backend_of(compile)
    return Eager() if backend is None else Compiled(loop, backend)
