"""Trees as flat lists of leaves, with or without their tensors."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch

from torchopt import pytree

Leaves: TypeAlias = list[Any]
"""The leaves of a tree in order; None is a leaf."""


IMMUTABLE: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), enum.Enum),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format),
)
"""Types of values that cannot change, so that keeping a reference keeps the value."""


class _Placeholder(enum.Enum):
    TENSOR = enum.auto()


_TENSOR = _Placeholder.TENSOR

flatten: Callable[[Any], tuple[Leaves, pytree.PyTreeSpec]] = functools.partial(
    pytree.tree_flatten, none_is_leaf=True
)
"""Return the leaves and the structure of a tree."""


def tensors_of(leaves: Iterable[Any]) -> list[torch.Tensor]:
    """Return the leaves that are tensors."""
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def template_of(leaves: Iterable[Any]) -> Leaves:
    """Return ``leaves`` with a placeholder for every tensor; see :func:`fill`."""
    return [_TENSOR if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def fill(template: Leaves, tensors: Iterable[Any]) -> Leaves:
    """Replace the placeholders of ``template`` by ``tensors``, in order."""
    supply = iter(tensors)
    return [next(supply) if leaf is _TENSOR else leaf for leaf in template]


def is_placeholder(leaf: Any) -> bool:
    """Tell whether a leaf of a template stands for a tensor."""
    return leaf is _TENSOR


def map_tensors(fn: Callable[[torch.Tensor], Any], leaves: Iterable[Any]) -> Leaves:
    """Apply ``fn`` to the tensors among ``leaves``."""
    return [fn(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def detached(leaves: Iterable[Any]) -> Leaves:
    """Return the leaves, with every tensor detached."""
    return map_tensors(torch.Tensor.detach, leaves)


def is_differentiable(leaf: Any) -> bool:
    """Tell whether ``leaf`` is a tensor of a dtype that can have a derivative."""
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
