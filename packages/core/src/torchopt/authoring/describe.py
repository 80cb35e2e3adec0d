"""Whether a value can take the place of another, and what an error calls the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def alike(old: Any, new: Any) -> bool:
    """Tell whether two tensors agree in shape and dtype, or two other values in type."""
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        return old.shape == new.shape and old.dtype == new.dtype
    return type(old) is type(new)


def unlike(old: Sequence[Any], new: Sequence[Any]) -> list[int]:
    """Return the positions at which two lists are not :func:`alike`, or differ in device."""
    return [
        position
        for position, (before, after) in enumerate(zip(old, new))
        if not alike(before, after)
        or (isinstance(before, torch.Tensor) and before.device != after.device)
    ]


def outline(value: Any) -> str:
    """Describe the kind of a value in an error message."""
    if isinstance(value, torch.Tensor):
        return f'a tensor of shape {tuple(value.shape)} and dtype {value.dtype} on {value.device}'
    return 'None' if value is None else f'a value of type {type(value).__name__}'
