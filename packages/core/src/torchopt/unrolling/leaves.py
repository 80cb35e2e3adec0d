"""Flat lists of leaves: which of them are tensors, and what must stay as it was."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch

from torchopt import pytree

Leaves: TypeAlias = list[Any]
"""The leaves of a tree in order; None is a leaf."""

# What may change from step to step beside tensors: a stored reference to it is a copy of it.
_IMMUTABLE = (bool, int, float, complex, str, bytes, type(None), enum.Enum)
_IMMUTABLE_TYPES = (torch.dtype, torch.device, torch.Size)


class _Hole(enum.Enum):
    TENSOR = enum.auto()


_HOLE = _Hole.TENSOR


def flatten(tree: Any) -> tuple[Leaves, pytree.PyTreeSpec]:
    """Return the leaves and the structure of ``tree``."""
    leaves, structure = pytree.tree_flatten(tree, none_is_leaf=True)
    return leaves, structure


def tensors_of(leaves: Iterable[Any]) -> list[torch.Tensor]:
    """Return the leaves that are tensors."""
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def frame_of(leaves: Iterable[Any]) -> Leaves:
    """Return ``leaves`` with a hole in place of every tensor; see :func:`fill`."""
    return [_HOLE if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def fill(frame: Leaves, tensors: Iterable[Any]) -> Leaves:
    """Put ``tensors``, in order, into the holes of ``frame``."""
    supply = iter(tensors)
    return [next(supply) if leaf is _HOLE else leaf for leaf in frame]


def is_hole(leaf: Any) -> bool:
    """Tell whether a leaf of a frame is the place of a tensor."""
    return leaf is _HOLE


def map_tensors(fn: Callable[[torch.Tensor], Any], leaves: Iterable[Any]) -> Leaves:
    """Apply ``fn`` to the tensors among ``leaves``."""
    return [fn(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def detached(leaves: Iterable[Any]) -> Leaves:
    """Return the leaves, with tensors that have no history."""
    return map_tensors(torch.Tensor.detach, leaves)


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a derivative with respect to ``leaf`` makes sense."""
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def require_storable(leaves: Leaves, structure: pytree.PyTreeSpec) -> None:
    """Raise unless every leaf is a tensor or an immutable value.

    Raises:
        TypeError: one is neither, so that its value before a step could not be kept.
    """
    for position, leaf in enumerate(leaves):
        if not isinstance(leaf, (torch.Tensor, *_IMMUTABLE, *_IMMUTABLE_TYPES)):
            where = structure.accessors()[position].codify('carry')
            raise TypeError(
                f'{where} must be a tensor or an immutable value such as a number, '
                f'got {type(leaf).__name__}: pass what does not change through consts'
            )


def require_alike(
    before: Leaves,
    structure: pytree.PyTreeSpec,
    after: Leaves,
    structure_after: pytree.PyTreeSpec,
    *,
    name: str,
    step: str,
) -> None:
    """Raise if what one step returned differs in kind from what an earlier one did.

    Raises:
        ValueError: structure, type, shape, dtype or device differ.
    """
    if structure != structure_after:
        raise ValueError(
            f'{step} changes the structure of its {name} from {structure} '
            f'to {structure_after}: it must return the one that it was given'
        )
    for position, (old, new) in enumerate(zip(before, after)):
        if not _alike(old, new):
            where = structure.accessors()[position].codify(name)
            raise ValueError(
                f'{step} changes {where} from {outline(old)} to {outline(new)}: '
                'type, shape, dtype and device must stay'
            )


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, torch.Tensor):
        return (
            isinstance(new, torch.Tensor)
            and old.shape == new.shape
            and old.dtype == new.dtype
            and old.device == new.device
        )
    return type(old) is type(new)


def outline(leaf: Any) -> str:
    """Describe a leaf in an error message."""
    if isinstance(leaf, torch.Tensor):
        return f'a tensor of shape {tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}'
    return f'{type(leaf).__name__} {leaf!r:.40}'


def versions(leaves: Sequence[Any]) -> list[int]:
    """Return how often each tensor among ``leaves`` has been written to."""
    return [leaf._version for leaf in tensors_of(leaves) if not leaf.is_inference()]
