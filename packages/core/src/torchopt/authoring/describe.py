"""How error messages describe values, and when two values count as alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt.authoring.shards import PLAIN, placement_of


def describe(value: Any) -> str:
    """Describe ``value`` for an error message; for a tensor, its kind and not its elements."""
    if isinstance(value, torch.Tensor):
        placement = placement_of(value)
        placed = '' if placement is None else f', placed as {placement.placements}'
        return f'a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}{placed}'
    if isinstance(value, type):
        return f'the class {value.__name__}'
    return 'None' if value is None else f'{type(value).__name__} {value!r:.40}'


def alike(old: Any, new: Any, *, device: bool = False) -> bool:
    """Tell whether ``new`` can take the place of ``old``.

    Args:
        old: A tensor or any other value.
        new: A tensor must have the shape and dtype of ``old``, any other value its type.
        device: Whether tensors must be on the same device, too; and the parts of DTensors on the
            same ranks.
    """
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if old.shape != new.shape or old.dtype != new.dtype:
            return False
        if type(old) in PLAIN and type(new) in PLAIN:
            return not device or old.device == new.device
        placements = placement_of(old), placement_of(new)
        if not device:
            return placements.count(None) != 1
        return old.device == new.device and placements[0] == placements[1]
    return type(old) is type(new)


def unlike(old: Sequence[Any], new: Sequence[Any]) -> list[int]:
    """Return the positions at which two lists are not :func:`alike`, devices included."""
    return [
        position
        for position, (before, after) in enumerate(zip(old, new))
        if not alike(before, after, device=True)
    ]


def enumerate_few(names: Sequence[str], most: int = 3) -> str:
    """Join the first names, and count the rest: ``a, b, c and 4 more``."""
    shown = ', '.join(names[:most])
    return shown if len(names) <= most else f'{shown} and {len(names) - most} more'
