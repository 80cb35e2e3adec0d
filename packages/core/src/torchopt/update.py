"""Application of updates to parameters."""

from __future__ import annotations

import torch

from torchopt.authoring.inplace import must_not_write, write_back
from torchopt.authoring.per_tensor import add_updates
from torchopt.typing import TreeT, Updates


def apply_updates(params: TreeT, updates: Updates, *, inplace: bool = True) -> TreeT:
    """Add ``updates`` to ``params``.

    Args:
        params: Tree of tensors.
        updates: Tree of the same structure; a None leaves its parameter as it is.
        inplace: Write the sums into the tensors of ``params``. Where that would cut a graph
            (grad mode is on and an update carries one, or a transform of ``torch.func`` is
            active), the sums are new tensors, as with ``inplace=False``.

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
    if not inplace or must_not_write(updates):
        new = add_updates(params, updates)
    else:
        with torch.no_grad():
            new = write_back(params, add_updates(params, updates))
    return new
