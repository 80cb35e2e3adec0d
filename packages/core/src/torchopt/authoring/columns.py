"""Trees as columns of leaves, which rules take row by row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchopt import pytree
from torchopt.authoring.common_trees import SEQUENCES
from torchopt.typing import TensorTree


def flatten_like(
    structure: pytree.PyTreeSpec,
    trees: Iterable[tuple[str, TensorTree]],
    what: str = 'updates',
) -> list[list[Any]]:
    """Return the leaves of each tree; at its root, a list and a tuple count as one structure.

    Args:
        structure: The structure of a tree of updates.
        trees: Trees, and their names in messages.
        what: The name of the tree of updates in messages.

    Raises:
        ValueError: a tree, which the message calls by its name, has another structure.
    """
    columns = []
    for name, tree in trees:
        # torch.autograd.grad returns a tuple, even if parameters and states are in a list.
        if type(tree) in SEQUENCES and structure.type in SEQUENCES:
            tree = structure.type(tree)
        given: Any = tree
        try:
            columns.append(structure.flatten_up_to(given))
        except ValueError as error:
            raise ValueError(f'{name} and {what} differ in structure: {error}') from None
    return columns


def unflatten_like(
    structure: pytree.PyTreeSpec, columns: Iterable[Iterable[Any]], trees: Iterable[TensorTree]
) -> list[Any]:
    """Undo :func:`flatten_like`, with a list or a tuple at each root as ``trees`` have it."""
    return [
        in_container_of(old, new)
        for old, new in zip(trees, pytree.unflatten_columns(structure, columns))
    ]


def in_container_of(old: TensorTree, new: TensorTree) -> Any:
    """Return ``new``; if both are lists or tuples, convert it to the type of ``old``."""
    kind: Any = type(old)
    both = kind in SEQUENCES and type(new) in SEQUENCES
    return kind(new) if both and kind is not type(new) else new
