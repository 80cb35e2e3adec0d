"""Application of updates to parameters."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.inplace import write_back
from torchopt.authoring.per_tensor import map_updates
from torchopt.typing import TensorTree, TreeT, Updates


def apply_updates(params: TreeT, updates: Updates, *, inplace: bool = True) -> TreeT:
    """Add ``updates`` to ``params``.

    Args:
        params: Tree of tensors.
        updates: Tree of the same structure; a None leaves its parameter as it is.
        inplace: Write the sums into the tensors of ``params``. Updates that carry a graph can't
            be written in place without cutting it, so that they are added as if ``inplace`` were
            False, unless grad mode is off.

    Returns:
        The tree of sums; with ``inplace=False`` of new tensors, differentiable with respect to
        both arguments.

    Raises:
        ValueError: the trees differ in structure, or a tensor in shape, dtype or device from its
            update. Nothing has been written then.
        TypeError: a leaf of ``updates`` is neither a floating-point tensor nor None.

    Example:
        >>> import torch, torchopt
        >>> torchopt.apply_updates([torch.ones(2)], [torch.tensor([0.5, -0.5])])
        [tensor([1.5000, 0.5000])]
    """
    new: TreeT
    if not inplace or _connected(updates):
        new = _sums(params, updates)
    else:
        with torch.no_grad():
            new = write_back(params, _sums(params, updates))
    return new


def _sums(params: TensorTree, updates: Updates) -> Any:
    # In this order, which a sparse update needs.
    return map_updates(lambda u, p: torch.add(p, u), updates, {'params': params}, absent='params')


def _connected(updates: Updates) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(leaf, torch.Tensor) and leaf.requires_grad
        for leaf in pytree.tree_leaves(updates)
    )
