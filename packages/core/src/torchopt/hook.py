"""Hooks on gradients that flow back through updates."""

from __future__ import annotations

import torch

from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import pointwise
from torchopt.base import GradientTransformation
from torchopt.typing import Hook

__all__ = ['nan_to_num_hook', 'register_hook', 'zero_nan_hook']


def zero_nan_hook(gradient: torch.Tensor) -> torch.Tensor:
    """Replace NaN by 0, and keep infinities."""
    return torch.where(gradient.isnan(), torch.zeros_like(gradient), gradient)


def nan_to_num_hook(
    nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Hook:
    """Return a hook that replaces NaN and infinities, as :func:`torch.nan_to_num` does."""

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(gradient, nan=nan, posinf=posinf, neginf=neginf)

    return hook


@recorded
def register_hook(hook: Hook) -> GradientTransformation:
    """Apply ``hook`` to the gradient of every update that requires grad, on its way back.

    The updates themselves pass through with unchanged values. The hook is set on a new view of
    each, so that the caller's tensors carry none.

    Raises:
        TypeError: ``hook`` is not callable.
    """
    if not callable(hook):
        raise TypeError(f'hook must be callable, got {hook!r}')

    def attach(g: torch.Tensor) -> torch.Tensor:
        if not g.requires_grad:
            return g
        g = g.view_as(g)
        g.register_hook(hook)
        return g

    return pointwise(attach)
