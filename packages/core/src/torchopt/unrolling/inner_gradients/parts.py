"""Batches in equal parts, and what is computed part by part as one."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.unrolling.leaves import flatten, map_tensors, tensors_of


def require_number_of_parts(number: int) -> None:
    """Raise unless a batch can have this number of parts.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is less than 1.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f'micro_batches must be an integer, got {type(number).__name__}')
    if number < 1:
        raise ValueError(f'micro_batches must be at least 1, got {number}')


def parts_of(batch: Any, number: int) -> list[Any]:
    """Split the tensors of a tree along their first dimension into ``number`` equal parts.

    Every part has the 0-dim tensors and the leaves that are not tensors.

    Raises:
        ValueError: the tree has no tensor with a dimension, their first dimensions differ, or
            these can't be divided.
    """
    leaves, structure = flatten(batch)
    sizes = {tensor.shape[0] for tensor in tensors_of(leaves) if tensor.dim()}
    if not sizes:
        raise ValueError(
            f'micro_batches={number} splits the tensors of x along their first dimension, but x '
            'has no tensor with a dimension'
        )
    if len(sizes) > 1:
        raise ValueError(
            f'micro_batches={number} splits the tensors of x along their first dimension, whose '
            f'sizes differ: {sorted(sizes)}. Pass what does not belong to the batch through consts'
        )
    (size,) = sizes
    if size % number or not size:
        raise ValueError(
            f'a batch of {size} examples has no {number} equal parts: choose another micro_batches '
            'or another batch size'
        )
    length = size // number

    def part(index: int) -> Any:
        return pytree.tree_unflatten(
            structure,
            map_tensors(
                lambda leaf: leaf[index * length : (index + 1) * length] if leaf.dim() else leaf,
                leaves,
            ),
        )

    return [part(index) for index in range(number)]


def add_part(
    totals: dict[str, torch.Tensor], found: dict[str, torch.Tensor], number: int
) -> dict[str, torch.Tensor]:
    """Add what was found for one of ``number`` parts to the mean over all; empties ``found``."""
    # Divided first, because the sum of the parts may overflow in float16.
    return {
        name: torch.add(totals[name], found.pop(name), alpha=1 / number)
        if name in totals
        else found.pop(name) / number
        for name in list(found)
    }
