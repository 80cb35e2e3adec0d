"""Runs and differentiates a step as the user wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from torchopt.unrolling.context.captures import (
    require_no_captures,
    require_no_tangents,
    tangents_recorded,
)
from torchopt.unrolling.inner_gradients.cache import GradientCache
from torchopt.unrolling.leaves import Leaves, detached, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, call_step, explaining_missing_graph
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.vjp import Cotangents, vjp


class Call(NamedTuple):
    """One call of a step.

    Attributes:
        arguments: Leaves of ``(carry, x, consts)``.
        result: What it returned.
    """

    arguments: Leaves
    result: StepResult

    def detached(self) -> StepResult:
        """Return the result without its history."""
        carry, y, structure = self.result
        return StepResult(detached(carry), detached(y), structure)


class Eager:
    """The engine that calls the step as it is; see :class:`~.engine.Engine`."""

    compares = True

    def begin(self, loop: Loop, seen: Iterable[Any]) -> None:
        """Do nothing."""

    def turn_back(self, *, observed: bool) -> None:
        """Do nothing."""

    def is_direct(self, number: int, *, backward: bool) -> bool:
        """Tell that a step runs as Python code."""
        return False

    def run(self, loop: Loop, checkpoint: Checkpoint, x: Leaves) -> StepResult:
        """Run a step without a graph.

        Raises:
            RuntimeError: the step depends on a tensor that requires grad, or has a tangent, and is
                not an argument.
        """
        return self.call(loop, checkpoint, x).detached()

    def call(self, loop: Loop, checkpoint: Checkpoint, x: Leaves) -> Call:
        """Do the same; return what the step has received and returned."""
        arguments = detached([*checkpoint.carry, *x, *loop.consts])
        # Grad mode is on, as in the backward pass, so that a captured tensor shows in the graph.
        # The arguments are detached: nothing else is recorded.
        recording = GradientCache.recording(checkpoint.cache)
        explained = explaining_missing_graph(loop.first + checkpoint.number)
        with torch.enable_grad(), tangents_recorded(), recording, explained:
            carry, y, y_structure = call_step(loop, checkpoint.number, arguments)
        outputs = tensors_of([*carry, *y])
        place = f'step {loop.first + checkpoint.number}'
        if not loop.constant and any(output.requires_grad for output in outputs):
            require_no_captures(loop.step, outputs, arguments, place=place)
        require_no_tangents(loop.step, outputs, place=place)
        return Call(arguments, StepResult(carry, y, y_structure))

    def vjp(
        self,
        loop: Loop,
        checkpoint: Checkpoint,
        x: Leaves,
        cotangents: Cotangents,
        needed: Sequence[bool],
    ) -> Cotangents:
        """Run a step with its graph, and differentiate it.

        Raises:
            RuntimeError: the step gives another result than in the forward pass; or it is
                differentiated by a part of its carry where torch has no derivative.
        """
        supply = iter(needed)
        arguments = [
            leaf.detach().requires_grad_(next(supply)) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in (*checkpoint.carry, *x, *loop.consts)
        ]
        with torch.enable_grad(), GradientCache.replaying(checkpoint.cache):
            try:
                carry, y, _ = call_step(loop, checkpoint.number, arguments)
            except RuntimeError as error:
                if 'is not differentiable with respect to argument' not in str(error):
                    raise
                raise RuntimeError(
                    f'step {loop.first + checkpoint.number} is differentiated by its whole carry, '
                    'but uses a part of it where torch has no derivative, such as the running '
                    'averages of BatchNorm: let the step detach() that part'
                ) from error
        if checkpoint.outcome is not None:
            checkpoint.outcome.require_same(loop, checkpoint.number, checkpoint.carry, carry)
        return vjp(tensors_of([*carry, *y]), cotangents, tensors_of(arguments))
