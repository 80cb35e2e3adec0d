"""How one step is run without a graph, and how it is differentiated afterwards."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple, Protocol

import torch

from torchopt import pytree
from torchopt.unrolling.closures import require_no_captures
from torchopt.unrolling.derivatives import Cotangents, partial_derivatives
from torchopt.unrolling.inner_gradient import Tape
from torchopt.unrolling.leaves import Leaves, detached, is_differentiable, map_tensors, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.random_state import RandomState


class Point(NamedTuple):
    """All that is needed to run a step once more.

    Attributes:
        number: Number of the step.
        carry: Leaves of the carry that it starts from, without history.
        random: State of the generators at its start.
        versions: How often the tensors of the carry had been written to.
        tape: The inner gradients that it computed, if they are kept.
    """

    number: int
    carry: Leaves
    random: RandomState
    versions: list[int]
    tape: Tape | None = None


class Pulled(NamedTuple):
    """Cotangents of what went into a step, one for every tensor."""

    carry: Cotangents
    x: Cotangents
    consts: Cotangents


class Engine(Protocol):
    """Runs and differentiates steps."""

    def advance(
        self, loop: Loop, point: Point, x: Leaves
    ) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        """Run a step without a graph; return the next carry, ``y`` and its structure."""
        ...

    def pull(
        self, loop: Loop, point: Point, x: Leaves, carry: Cotangents, y: Cotangents, wanted: Pulled
    ) -> Pulled:
        """Return the cotangents of what went in, given those of what came out.

        Those that are None in ``wanted`` need not be computed.
        """
        ...


class Eager:
    """Runs the function of the user as it is."""

    def advance(
        self, loop: Loop, point: Point, x: Leaves
    ) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        """Run a step without a graph.

        Raises:
            RuntimeError: the step depends on a tensor that requires grad past its arguments.
        """
        carry, consts = detached(point.carry), detached(loop.consts)
        # With grad mode on, as in the recomputation, so that a captured tensor shows. The inputs
        # are without history: nothing else is recorded.
        with torch.enable_grad(), Tape.recording(point.tape):
            try:
                new_carry, y, structure = loop.run_step(point.number, carry, x, consts)
            except RuntimeError as error:
                if 'does not require grad and does not have a grad_fn' not in str(error):
                    raise
                raise RuntimeError(
                    f'{loop.called(point.number)} differentiates by tensors that have no graph '
                    'in the forward pass: take inner gradients with torchopt.unrolling.grad or '
                    'torch.func.grad, or use backward=Stored()'
                ) from error
        if not loop.constant:
            require_no_captures(
                loop.step,
                [*new_carry, *y],
                tensors_of([*carry, *x, *consts]),
                place=loop.called(point.number),
            )
        return detached(new_carry), detached(y), structure

    def pull(
        self, loop: Loop, point: Point, x: Leaves, carry: Cotangents, y: Cotangents, wanted: Pulled
    ) -> Pulled:
        """Run a step with its graph, and differentiate it."""
        parts = [
            _departing(leaves, mask) for leaves, mask in zip((point.carry, x, loop.consts), wanted)
        ]
        with torch.enable_grad(), Tape.replaying(point.tape):
            try:
                new_carry, new_y, _ = loop.run_step(point.number, *parts)
            except RuntimeError as error:
                if 'is not differentiable with respect to argument' not in str(error):
                    raise
                raise RuntimeError(
                    f'{loop.called(point.number)} is differentiated by its whole carry, of which '
                    'a part is used where torch has no derivative, such as the running averages of '
                    'BatchNorm: let the step detach() it'
                ) from error
        outputs = [*tensors_of(new_carry), *tensors_of(new_y)]
        inputs = [tensors_of(part) for part in parts]
        found = iter(partial_derivatives(outputs, [*carry, *y], [*chain(*inputs)]))
        return Pulled(*([next(found) for _ in part] for part in inputs))


def _departing(leaves: Leaves, wanted: Cotangents) -> Leaves:
    supply = iter(wanted)
    return map_tensors(
        lambda tensor: tensor.detach().requires_grad_(next(supply) is not None), leaves
    )


def wanted_of(leaves: Leaves) -> Cotangents:
    """Return a mask for :class:`Pulled` that wants everything that is differentiable."""
    return [leaf if is_differentiable(leaf) else None for leaf in tensors_of(leaves)]
