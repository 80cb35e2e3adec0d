"""States that can be saved, and the check that a loaded state fits."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from torchopt import pytree
from torchopt.authoring.describe import alike, describe
from torchopt.typing import TensorTree

Class = TypeVar('Class', bound='type[tuple[Any, ...]]')


def saveable(state_class: Class) -> Class:
    """Let ``torch.load`` read states of this class with ``weights_only=True``, its default."""
    torch.serialization.add_safe_globals([state_class])
    return state_class


def checked_like(expected: TensorTree, given: TensorTree, name: str) -> Any:
    """Return ``given`` if it has the structure, shapes and dtypes of ``expected``.

    Raises:
        ValueError: ``given`` differs; the message names the leaf.
    """
    leaves, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    given_leaves, given_structure = pytree.tree_flatten(given, none_is_leaf=True)
    if structure != given_structure:
        raise ValueError(
            f'{name} differs in structure: expected {structure}, got {given_structure}'
        )
    for position, (leaf, other) in enumerate(zip(leaves, given_leaves)):
        if not alike(leaf, other):
            raise ValueError(
                f'{structure.accessors()[position].codify(name)} does not fit: '
                f'expected {describe(leaf)}, got {describe(other)}'
            )
    return given
