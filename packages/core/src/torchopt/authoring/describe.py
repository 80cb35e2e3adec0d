"""Whether a value can take the place of another, and what an error calls the two."""

from __future__ import annotations

from typing import Any

import torch


def alike(old: Any, new: Any) -> bool:
    """Tell whether two tensors agree in shape and dtype, or two other values in type."""
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        return old.shape == new.shape and old.dtype == new.dtype
    return type(old) is type(new)


def outline(value: Any) -> str:
    """Return what :func:`alike` compares, in words."""
    if isinstance(value, torch.Tensor):
        return f'a tensor of shape {tuple(value.shape)} and dtype {value.dtype}'
    return 'None' if value is None else f'a value of type {type(value).__name__}'
