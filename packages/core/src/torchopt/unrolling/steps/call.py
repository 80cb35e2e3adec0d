"""One call of the user's step on flat arguments, and the checks of what the step did."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe, unlike
from torchopt.unrolling.inner_gradients.normalization import separate_affine
from torchopt.unrolling.leaves import IMMUTABLE, Leaves, flatten, tensors_of
from torchopt.unrolling.loop import Loop

_READ_VERSION = operator.attrgetter('_version')


class StepResult(NamedTuple):
    """What one step returned, flat.

    Attributes:
        carry: Leaves of the next carry.
        y: Leaves of ``y``.
        y_structure: Tree of ``y``.
    """

    carry: Leaves
    y: Leaves
    y_structure: pytree.PyTreeSpec


def call_step(loop: Loop, number: int, arguments: Leaves) -> StepResult:
    """Call the step of ``loop``, and check what it did.

    Args:
        loop: The loop of the step.
        number: Number of the step, from 0.
        arguments: Leaves of ``(carry, x, consts)``.

    Raises:
        TypeError: the step does not return a pair, or a leaf of ``y`` is not a tensor.
        ValueError: the carry changes its structure, or a leaf its type, shape or dtype.
        RuntimeError: the step wrote into one of its arguments.
    """
    traced = torch.compiler.is_compiling()
    before = [] if traced else versions(arguments)
    with separate_affine():
        result = loop.step(*pytree.tree_unflatten(loop.structure, arguments))
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f'step must return the pair (carry, y), got {type(result).__name__}')
    step = loop.first + number
    if not traced and before != versions(arguments):
        raise RuntimeError(
            f'step {step} writes in place into {_written(loop, before, arguments)}, which the '
            'backward pass may need: return new tensors (update and apply_updates with '
            'inplace=False, clones of buffers)'
        )
    carry, structure = flatten(result[0])
    old_carry = arguments[: len(loop.carry)]
    require_alike(old_carry, loop.carry_structure, carry, structure, name='carry', step=step)
    if not traced and not all(isinstance(leaf, torch.Tensor) for leaf in carry):
        require_storable(carry, structure)
    y, y_structure = flatten(result[1])
    for position, leaf in enumerate(y):
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            where = y_structure.accessors()[position].codify('y')
            raise TypeError(
                f'{where} must be a tensor or None, so that it can be stacked, got {describe(leaf)}'
            )
    return StepResult(carry, y, y_structure)


def _written(loop: Loop, before: list[int], arguments: Leaves) -> str:
    """Name the arguments that were written into."""
    parts = ('carry', 'x', 'consts')
    names = [
        accessor[1:].codify(parts[accessor[0].entry])
        for accessor, leaf in zip(loop.structure.accessors(), arguments)
        if isinstance(leaf, torch.Tensor)
    ]
    after = versions(arguments)
    return ', '.join(name for name, old, new in zip(names, before, after) if old != new)


def versions(leaves: Sequence[Any]) -> list[int]:
    """Return how often each tensor among ``leaves`` has been written to."""
    tensors = tensors_of(leaves)
    try:
        return list(map(_READ_VERSION, tensors))
    except RuntimeError:  # An inference tensor does not count.
        return [tensor._version for tensor in tensors if not tensor.is_inference()]


def require_storable(leaves: Leaves, structure: pytree.PyTreeSpec) -> None:
    """Raise unless every leaf of a carry is a tensor or an immutable value.

    Raises:
        TypeError: a leaf is mutable, so that a checkpoint could not keep its value.
    """
    for position, leaf in enumerate(leaves):
        if not isinstance(leaf, (torch.Tensor, *IMMUTABLE)):
            where = structure.accessors()[position].codify('carry')
            raise TypeError(
                f'{where} must be a tensor or an immutable value such as a number, '
                f'got {describe(leaf)}: pass what does not change through consts'
            )


def require_alike(
    before: Leaves,
    structure: pytree.PyTreeSpec,
    after: Leaves,
    structure_after: pytree.PyTreeSpec,
    *,
    name: str,
    step: int,
) -> None:
    """Raise if a step changes the kind of its carry or of its ``y``.

    Args:
        before: Leaves before the step.
        structure: Their tree.
        after: Leaves that the step returned.
        structure_after: Their tree.
        name: ``'carry'`` or ``'y'``.
        step: Number of the step.

    Raises:
        ValueError: structure, type, shape, dtype, device or placement differ.
    """
    if structure != structure_after:
        raise ValueError(
            f'step {step} changes the structure of its {name} from {structure} '
            f'to {structure_after}: the structure must stay the same'
        )
    changed = unlike(before, after)
    if changed:
        position = changed[0]
        where = structure.accessors()[position].codify(name)
        raise ValueError(
            f'step {step} changes {where} from {describe(before[position])} '
            f'to {describe(after[position])}: type, shape, dtype, device and placement must stay '
            'the same'
        )


@contextmanager
def explaining_missing_graph(step: int) -> Iterator[None]:
    """Explain torch's error where a step differentiates by tensors that have no graph.

    Args:
        step: Number of the step, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        if 'does not require grad and does not have a grad_fn' not in str(error):
            raise
        raise RuntimeError(
            f'step {step} differentiates by tensors that have no graph in the forward pass: take '
            'inner gradients with torchopt.unrolling.grad or torch.func.grad, or use '
            'backward=Stored()'
        ) from error
