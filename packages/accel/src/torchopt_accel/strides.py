"""In which order the elements of a leaf lie in memory.

Kernels run over memory: the tensors of a leaf must be dense and have the same strides. Those that
do not are copied, with the strides of the leaf's first state or, if the rule has no state, of its
gradient (in place, of what is written). The results of the leaf have these strides, too, as torch's
operators preserve the format of their first argument.

Strides here are written as ``()`` for a contiguous tensor, and the strides of all leaves as ``()``
if all are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Order = Sequence[int]
Strides = Sequence[Order]


def like(tensor: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Return an empty tensor with the strides of the results of a leaf that begins with ``tensor``.

    They are the strides of ``tensor``, with its gaps closed.
    """
    # A contiguous tensor may have any strides in dimensions of size 1; results have the usual ones.
    kept = torch.contiguous_format if tensor.is_contiguous() else torch.preserve_format
    return torch.empty_like(tensor, device=device, memory_format=kept)


def dense_strides(tensors: Sequence[torch.Tensor]) -> Strides:
    """Return the strides of tensors that are known to be dense."""
    return [() if x.is_contiguous() else x.stride() for x in tensors]


def closed_strides(tensors: Sequence[torch.Tensor]) -> Strides:
    """Return the strides of tensors, with their gaps closed."""
    strides = [() if x.is_contiguous() else like(x, 'meta').stride() for x in tensors]
    # An order of dimensions can be a contiguous one once the gaps are closed.
    return strides if any(strides) else ()


def empty(
    shape: Sequence[int], order: Order, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return a new tensor."""
    if not order:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.empty_strided(shape, order, dtype=dtype, device=device)


def plain(role: Sequence[Any], strides: Strides) -> Sequence[Any]:
    """Return the tensors of a role, with copies in place of tensors that are not plain.

    In a plain tensor, memory holds the elements in the leaf's order, and with their sign. The
    gradient of a real tensor that a complex one was made of may be a view whose elements torch
    negates when it reads them.
    """
    orders = strides or [()] * len(role)
    if all([x is None or _is_plain(x, order) for x, order in zip(role, orders)]):
        return role
    return [
        x if x is None or _is_plain(x, order) else _copy(x, order) for x, order in zip(role, orders)
    ]


def _is_plain(x: torch.Tensor, order: Order) -> bool:
    if x.is_neg():
        return False
    if not order:
        return x.is_contiguous()
    given = zip(x.shape, x.stride(), order)
    return x.numel() == 0 or all([a == b or size == 1 for size, a, b in given])


def _copy(x: torch.Tensor, order: Order) -> torch.Tensor:
    return empty(x.shape, order, x.dtype, x.device).copy_(x)
