"""``inplace=True`` as a lowering: run the functional rule without a graph, then write back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from torchopt import pytree
from torchopt.authoring.torch_internals import transforming
from torchopt.authoring.update_marks import mark_update
from torchopt.typing import OptState, Params, TensorTree, TreeT, UpdateFn

FunctionalUpdate: TypeAlias = Callable[[Any, Any, Params | None], tuple[Any, OptState]]
"""``update(updates, state, params) -> (updates, state)``, out of place."""


def lower_inplace(update: FunctionalUpdate) -> UpdateFn:
    """Give a functional update the keyword ``inplace``; :func:`functional` is the inverse.

    ``inplace=True`` never cuts a graph: if :func:`must_not_write` says so, or if a hyperparameter
    carries a graph, it does the same as ``inplace=False``. Otherwise everything is computed before
    anything is written, so that an update that raises leaves the caller's tensors unchanged. The
    returned tensors have no graph, even if the caller's tensors had one: that graph belonged to
    the values that have been overwritten.
    """

    def recorded(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
        new = update(updates, state, params)
        mark_update(updates, new[0])
        return new

    def lowered(
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        if not inplace or must_not_write(updates, state):
            return recorded(updates, state, params)
        new = update(updates, state, _detached(params))
        if torch.is_grad_enabled() and carries_graph(new):
            # The graph can only come from a hyperparameter.
            return recorded(updates, state, params)
        result: tuple[TreeT, OptState] = overwrite((updates, state), new)
        return result

    lowered.functional = update  # type: ignore[attr-defined]
    return lowered


def must_not_write(*trees: TensorTree) -> bool:
    """Tell whether writing in place would cut a graph.

    It would if grad mode is on and a tensor of ``trees`` carries a graph, or if a transform of
    ``torch.func`` is active. Traced code cannot tell, so grad mode alone decides there.
    """
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    return transforming() or (torch.is_grad_enabled() and carries_graph(trees))


def carries_graph(tree: TensorTree) -> bool:
    """Tell whether a tensor of ``tree`` requires grad."""
    return any(
        isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(tree)
    )


def functional(update: UpdateFn) -> FunctionalUpdate:
    """Return ``update`` without its keyword ``inplace``, as a function that works out of place."""
    found: FunctionalUpdate | None = getattr(update, 'functional', None)
    if found is not None:
        return found
    return lambda updates, state, params: update(updates, state, params=params, inplace=False)


def overwrite(old: TensorTree, new: TensorTree) -> Any:
    """Write the results of an update into the tensors that it was given, without a graph.

    A tensor that shares memory with one before it is replaced.

    Raises:
        ValueError: as in :func:`write_back`.
    """
    with torch.no_grad():
        return _without_graph(write_back(_apart(old), new))


def write_back(old: TensorTree, new: TensorTree) -> Any:
    """Copy the tensors of ``new`` into the tensors of ``old``, and return the tree of results.

    A leaf that is not a tensor is replaced.

    Raises:
        ValueError: elements of a tensor of ``old`` share memory, so that it cannot hold the
            result, or a result has another shape. Nothing has been written in that case.
    """
    pytree.tree_map_(_require_writable_if_new, old, new, none_is_leaf=True)
    return pytree.tree_map(_write, old, new, none_is_leaf=True)


def require_writable(tensor: torch.Tensor) -> None:
    """Raise ValueError if elements of ``tensor`` share memory."""
    if tensor.is_contiguous():
        return
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
        raise ValueError(
            f'inplace=True cannot write into an expanded tensor (shape {tuple(tensor.shape)}, '
            f'strides {tensor.stride()}): pass a copy, or inplace=False'
        )


def _require_writable_if_new(old: Any, new: Any) -> None:
    if old is not new and isinstance(old, torch.Tensor):
        require_writable(old)
        if isinstance(new, torch.Tensor) and new.shape != old.shape:
            raise ValueError(
                f'inplace=True cannot write a result of shape {tuple(new.shape)} into a tensor of '
                f'shape {tuple(old.shape)}: the rule must keep shapes'
            )


def _write(old: Any, new: Any) -> Any:
    if old is new or not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return new
    return old.copy_(new)


def _detached(tree: TensorTree) -> Any:
    def detach(leaf: Any) -> Any:
        return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf

    return pytree.tree_map(detach, tree, none_is_leaf=True)


def _without_graph(tree: TensorTree) -> Any:
    """Detach the tensors that have a ``grad_fn``; the others keep their identity."""

    def cut(leaf: Any) -> Any:
        return leaf if getattr(leaf, 'grad_fn', None) is None else leaf.detach()

    return pytree.tree_map(cut, tree, none_is_leaf=True)


def _apart(tree: TensorTree) -> Any:
    """Return ``tree`` with None for every tensor that shares memory with an earlier one.

    Autograd returns one tensor as the gradient of both summands of a sum. Each summand has its
    own update, and only the first update can be written into that tensor.
    """
    claimed: dict[int, tuple[torch.UntypedStorage, list[torch.Tensor]]] = {}

    def claim(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.layout is not torch.strided:
            return None
        # Views and detached tensors are different objects with one storage. Keep the storage,
        # because its address is unique only while it lives.
        storage = leaf.untyped_storage()
        _, members = claimed.setdefault(storage._cdata, (storage, []))
        if any(leaf is member or _overlap(leaf, member) for member in members):
            return None
        members.append(leaf)
        return leaf

    return pytree.tree_map(claim, tree, none_is_leaf=True)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors occupy overlapping ranges of their common storage."""
    return a.storage_offset() < _end(b) and b.storage_offset() < _end(a)


def _end(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return int(tensor.storage_offset())
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return int(tensor.storage_offset()) + 1 + reach
