"""``inplace=True`` as a lowering: run the functional rule without a graph, then write back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from torchopt import pytree
from torchopt.typing import OptState, Params, TensorTree, TreeT, UpdateFn

FunctionalUpdate: TypeAlias = Callable[[Any, Any, Params | None], tuple[Any, OptState]]
"""``update(updates, state, params) -> (updates, state)``, which writes into nothing."""


def lower_inplace(update: FunctionalUpdate) -> UpdateFn:
    """Give a functional update its keyword ``inplace``; :func:`functional` takes it away again.

    Everything is computed before anything is written, so that an update that raises leaves the
    caller's tensors as they were. The tensors that are returned have no graph, even where the
    caller's tensors had one: that graph belongs to values that have been overwritten.
    """

    def lowered(
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        if not inplace:
            new: tuple[TreeT, OptState] = update(updates, state, params)
            return new
        with torch.no_grad():
            new = update(updates, state, params)
            written = write_back((_apart(updates), state), new)
            result: tuple[TreeT, OptState] = _without_graph(written)
        return result

    lowered.functional = update  # type: ignore[attr-defined]
    return lowered


def functional(update: UpdateFn) -> FunctionalUpdate:
    """Return ``update`` with ``inplace=False``, as chains compose it."""
    found: FunctionalUpdate | None = getattr(update, 'functional', None)
    if found is not None:
        return found
    return lambda updates, state, params: update(updates, state, params=params, inplace=False)


def write_back(old: TensorTree, new: TensorTree) -> Any:
    """Copy the tensors of ``new`` into those of ``old``; leaves that are no tensors are replaced.

    Raises:
        ValueError: a tensor of ``old`` has elements that share memory, so that it can't hold the
            result. Nothing has been written then.
    """
    pytree.tree_map_(_require_writable, old, new, none_is_leaf=True)
    return pytree.tree_map(_write, old, new, none_is_leaf=True)


def _require_writable(old: Any, new: Any) -> None:
    if old is new or not isinstance(old, torch.Tensor) or old.is_contiguous():
        return
    if any(stride == 0 and size > 1 for stride, size in zip(old.stride(), old.shape)):
        raise ValueError(
            f'inplace=True cannot write into an expanded tensor (shape {tuple(old.shape)}, '
            f'strides {old.stride()}): pass a copy, or inplace=False'
        )


def _write(old: Any, new: Any) -> Any:
    if old is new or not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return new
    return old.copy_(new)


def _without_graph(tree: TensorTree) -> Any:
    def cut(leaf: Any) -> Any:
        return leaf if getattr(leaf, 'grad_fn', None) is None else leaf.detach()

    return pytree.tree_map(cut, tree, none_is_leaf=True)


def _apart(tree: TensorTree) -> Any:
    """Return ``tree`` without the tensors that share memory with one before them.

    Autograd gives one tensor for the gradients of both summands of a sum. Each has an update of
    its own, which only the first can keep there.
    """
    claimed: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def claim(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        base = leaf if leaf._base is None else leaf._base
        # The base is kept, because an id is unique only while its tensor lives.
        _, members = claimed.setdefault(id(base), (base, []))
        if any(leaf is member or _overlap(leaf, member) for member in members):
            return None
        members.append(leaf)
        return leaf

    return pytree.tree_map(claim, tree, none_is_leaf=True)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether the spans of two views of one tensor meet."""
    return a.storage_offset() < _end(b) and b.storage_offset() < _end(a)


def _end(tensor: torch.Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return int(tensor.storage_offset()) + 1 + reach
