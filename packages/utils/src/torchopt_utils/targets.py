"""The kinds of object that the functions of this package take."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.typing import TensorTree


class Stateful(Protocol):
    """An optimizer, as this package sees it."""

    def state_dict(self) -> Any:
        """Return the state, a tree of tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over a state, or raise before anything has changed."""


def is_optimizer(target: object) -> TypeGuard[Stateful]:
    """Tell whether ``target``, which is not a module, has a state to extract."""
    if isinstance(target, type):
        return False
    methods = (getattr(target, name, None) for name in ('state_dict', 'load_state_dict'))
    return all(callable(method) for method in methods)


_WANTED = {
    'target': 'a module, an optimizer, an extracted state or a tree of tensors',
    'var': 'a tree of tensors',
}


def tensors_of(tree: TensorTree, root: str = 'target') -> dict[str, torch.Tensor]:
    """Return the tensors of a tree, by the names that errors give them.

    Raises:
        TypeError: a leaf is neither a tensor nor None, or the tree is None.
    """
    accessors, leaves, _ = pytree.tree_flatten_with_accessor(tree, none_is_leaf=True)
    named = {access.codify(root): leaf for access, leaf in zip(accessors, leaves)}
    for name, leaf in named.items():
        if leaf is tree and not isinstance(leaf, torch.Tensor):
            raise TypeError(f'{root} must be {_WANTED[root]}, got {describe(leaf)}')
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            raise TypeError(f'{name} must be a tensor or None, got {describe(leaf)}')
    return {name: leaf for name, leaf in named.items() if leaf is not None}
