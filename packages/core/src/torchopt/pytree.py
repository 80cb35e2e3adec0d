"""The tree functions of `optree <https://optree.readthedocs.io>`_, used through one module.

torchopt reads trees with ``none_is_leaf=True``: None stands for an absent tensor (a parameter
without gradient, a layer without bias) and keeps its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import optree
import torch
from optree import *  # noqa: F403
from optree import PyTreeSpec as PyTreeSpec

_Function = TypeVar('_Function', bound=Callable[..., Any])


class _Held:
    """Wraps a leaf that is not a tensor, in traced code.

    With optree 0.20, Dynamo of torch 2.13 folds the flattening and unflattening of a dictionary
    whose values are all constants, such as None, and then cannot read its own result.
    """

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf


def _hold(leaf: Any) -> Any:
    return leaf if isinstance(leaf, torch.Tensor) else _Held(leaf)


def _release(leaf: Any) -> Any:
    return leaf.leaf if isinstance(leaf, _Held) else leaf


def _of_held_leaves(fn: _Function) -> _Function:
    """Hide constant leaves, in traced code, from a function that flattens a tree."""

    @functools.wraps(fn)
    def traceable(tree: Any, /, *args: Any, none_is_leaf: bool = False, **options: Any) -> Any:
        if not torch.compiler.is_compiling() or args or options:
            return fn(tree, *args, none_is_leaf=none_is_leaf, **options)
        held = optree.tree_map(_hold, tree, none_is_leaf=none_is_leaf)
        result = fn(held, none_is_leaf=none_is_leaf)
        if isinstance(result, tuple):
            return [_release(leaf) for leaf in result[0]], result[1]
        return [_release(leaf) for leaf in result]

    return cast(_Function, traceable)


def _unflatten(structure: PyTreeSpec, leaves: Any) -> Any:
    if not torch.compiler.is_compiling():
        return optree.tree_unflatten(structure, leaves)
    held = optree.tree_unflatten(structure, [_hold(leaf) for leaf in leaves])
    return optree.tree_map(_release, held, none_is_leaf=True)


def unflatten_columns(structure: PyTreeSpec, columns: Iterable[Iterable[Any]]) -> list[Any]:
    """Return one tree of ``structure`` per column, which holds the leaves of the tree in order."""
    return [_unflatten(structure, column) for column in columns]


# For code that is never traced, to which the question whether it is costs time.
eager_flatten = optree.tree_flatten
tree_flatten = _of_held_leaves(optree.tree_flatten)
tree_leaves = _of_held_leaves(optree.tree_leaves)
tree_unflatten = cast(Any, functools.wraps(optree.tree_unflatten)(_unflatten))
