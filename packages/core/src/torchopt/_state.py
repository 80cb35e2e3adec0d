"""Saving of states, and their comparison before one takes the place of another."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from torchopt import pytree
from torchopt.typing import TensorTree

Class = TypeVar('Class', bound='type[tuple[Any, ...]]')


def saveable(state_class: Class) -> Class:
    """Let ``torch.load`` read states of this class with ``weights_only=True``, its default."""
    torch.serialization.add_safe_globals([state_class])
    return state_class


def checked_like(expected: TensorTree, given: TensorTree, name: str) -> Any:
    """Return ``given`` if it has the structure, shapes and dtypes of ``expected``.

    Raises:
        ValueError: it has not; the message names the leaf.
    """
    accessors, leaves, structure = pytree.tree_flatten_with_accessor(expected, none_is_leaf=True)
    given_leaves, given_structure = pytree.tree_flatten(given, none_is_leaf=True)
    if structure != given_structure:
        raise ValueError(
            f'{name} differs in structure: expected {structure}, got {given_structure}'
        )
    for accessor, leaf, other in zip(accessors, leaves, given_leaves):
        if _outline(leaf) != _outline(other):
            raise ValueError(
                f'{accessor.codify(name)} does not fit: expected {_outline(leaf)}, '
                f'got {_outline(other)}'
            )
    return given


def _outline(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f'a tensor of shape {tuple(leaf.shape)} and dtype {leaf.dtype}'
    return type(leaf).__name__
