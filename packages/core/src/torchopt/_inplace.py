"""``inplace=True`` as a lowering: run the functional rule without a graph, then write back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchopt import pytree
from torchopt.typing import OptState, Params, TensorTree, TreeT, UpdateFn


def lower_inplace(
    update: Callable[[Any, OptState, Params | None], tuple[Any, OptState]],
) -> UpdateFn:
    """Give the functional ``update(updates, state, params)`` its keyword ``inplace``.

    Everything is computed before anything is written, so that an update that raises leaves the
    tensors of its caller as they were.
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
            written: tuple[TreeT, OptState] = write_back((updates, state), new)
        return written

    return lowered


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
