"""The interface of what runs and differentiates one step, and the choice of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

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
    """Runs and differentiates steps.

    Attributes:
        compares: Whether a second run of a step is compared with the first.
    """

    compares: bool

    def begin(self, loop: Loop, seen: Iterable[Any]) -> None:
        """Prepare for a loop, whose step can see the modules and tensors ``seen``."""
        ...

    def turn_back(self, *, observed: bool) -> None:
        """Prepare for a backward pass, before which anything may have run.

        Args:
            observed: Whether something beside steps runs between the steps, too.
        """
        ...

    def is_direct(self, number: int, *, backward: bool) -> bool:
        """Tell whether a step, or its vjp, runs without any Python code of the step."""
        ...

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


def engine_for(loop: Loop, compile: Compilation, *, keeps_layout: bool) -> Engine:
    """Return the engine that runs the steps of ``loop``.

    Args:
        loop: The loop.
        compile: Whether to compile the step.
        keeps_layout: Whether carries come back from their storage in the layout that they had.
    """
    backend = backend_of(compile)
    if backend is None:
        return Eager()
    callbacks = (loop.until, loop.progress, loop.data)
    undisturbed = keeps_layout and all(fn is None for fn in callbacks)
    return Compiled(loop, backend, undisturbed=undisturbed)
