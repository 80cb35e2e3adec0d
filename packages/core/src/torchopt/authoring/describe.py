"""The one way in which error messages describe a value, and compare two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def describe(value: Any) -> str:
    """Return what an error message calls ``value``: a tensor by its kind, not by its elements."""
    if isinstance(value, torch.Tensor):
        return f'a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}'
    if isinstance(value, type):
        return f'the class {value.__name__}'
    return 'None' if value is None else f'{type(value).__name__} {value!r:.40}'


def alike(old: Any, new: Any, *, device: bool = False) -> bool:
    """Tell whether ``new`` can take the place of ``old``.

    Args:
        old: A tensor or any other value.
        new: Must agree with a tensor in shape and dtype, with another value in type.
        device: Tensors must be on the same device, too.
    """
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        same = old.shape == new.shape and old.dtype == new.dtype
        return same and (not device or old.device == new.device)
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
