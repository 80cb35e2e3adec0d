"""Copies of tensors, in the three ways that callers choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVar, cast

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.detached import note_detached

CopyMode: TypeAlias = Literal['reference', 'ref', 'copy', 'clone', 'deepcopy', 'deepclone']
"""How to take a tensor: the tensor itself, a copy connected to its graph, or a detached copy."""

Slots: TypeAlias = dict[str, torch.Tensor | None]
Tree = TypeVar('Tree')


class Copier:
    """Copies tensors. A tensor that comes twice, as tied weights do, is copied once."""

    def __init__(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._copy = copy
        # Originals are kept beside their copies: an id is unique only while its object lives.
        self._done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the copy of ``tensor``."""
        done = self._done.get(id(tensor))
        if done is None:
            done = self._done[id(tensor)] = tensor, self._copy(tensor)
        return done[1]

    def leaf(self, leaf: Any) -> Any:
        """Return the copy of a tensor; return anything else as it is."""
        return self.tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def tree(self, tree: Tree) -> Tree:
        """Return new containers with copies of the tensors in ``tree``."""
        return cast(Tree, pytree.tree_map(self.leaf, cast(Any, tree), none_is_leaf=True))

    def slots(self, slots: Iterable[Slots]) -> tuple[Slots, ...]:
        """Return new dictionaries with copies of the tensors."""
        return tuple({name: self.leaf(t) for name, t in each.items()} for each in slots)


def copier(by: CopyMode, device: torch.device | str | int | None = None) -> Copier:
    """Return a copier, which also moves to ``device``.

    Raises:
        ValueError: ``by`` is not a :data:`CopyMode`.
        RuntimeError: ``device`` is not a device.
    """
    if not isinstance(by, str) or by not in _COPIES:
        raise ValueError(f'by must be one of {", ".join(map(repr, _COPIES))}, got {by!r}')
    copy = _COPIES[by]
    to = None if device is None else torch.device(device)
    return Copier(lambda tensor: copy(tensor, to))


def renewer() -> Copier:
    """Return a copier whose copies are of the same kind: connected to the graph, or leaves."""
    return Copier(lambda t: _deepcopy(t) if t.grad_fn is None else _connected_copy(t))


def keeper(device: torch.device | str | int | None = None) -> Copier:
    """Return a copier that keeps leaves that require grad, and makes connected copies of the rest.

    The copies have the same derivatives as references. They differ from references only when
    somebody writes in place, which torch forbids for the leaves that are kept.
    """
    reference, connected = copier('reference', device), copier('copy', device)
    return Copier(lambda t: (reference if t.is_leaf and t.requires_grad else connected).tensor(t))


def _reference(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    return tensor if device is None else _connected(tensor, device)


def _connected_copy(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    return _connected(tensor, device, copy=True)


def _connected(
    tensor: torch.Tensor, device: torch.device | None, copy: bool = False
) -> torch.Tensor:
    # Whether a copy is connected depends on its kind alone, not on the grad mode at the call.
    with torch.enable_grad():
        return tensor.to(device=device, copy=copy)


def _deepcopy(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    copied = tensor.detach().to(device=device, copy=True)
    if isinstance(tensor, nn.Parameter):
        copied = nn.Parameter(copied, requires_grad=tensor.requires_grad)
    else:
        copied.requires_grad_(tensor.requires_grad)
    note_detached(copied, 'deepcopy', 'state')
    return copied


_COPIES: dict[str, Callable[[torch.Tensor, torch.device | None], torch.Tensor]] = {
    'reference': _reference,
    'ref': _reference,
    'copy': _connected_copy,
    'clone': _connected_copy,
    'deepcopy': _deepcopy,
    'deepclone': _deepcopy,
}
