"""Hooks on the gradients that flow back through updates."""

from __future__ import annotations

import torch

from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import pointwise
from torchopt.authoring.torch_internals import (
    active_transforms,
    forward_grad_enabled,
    in_dual_level,
)
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
    """Apply ``hook`` to the gradient that flows back through each update.

    The values of the updates do not change. The hook is registered on a new view of each update
    that requires grad, so that the caller's tensors carry no hook.

    Raises:
        TypeError: ``hook`` is not callable.

    The update raises a ``RuntimeError`` in forward mode, where nothing flows back.
    """
    if not callable(hook):
        raise TypeError(f'hook must be callable, got {hook!r}')

    def attach(g: torch.Tensor) -> torch.Tensor:
        if _is_differentiated_forward(g):
            raise RuntimeError(
                'register_hook is part of an update that is differentiated in forward mode '
                '(ForwardMode, torch.func.jvp, dual tensors), where no gradient flows back through '
                'the hook: use reverse mode, or leave the hook out'
            )
        if not g.requires_grad:
            return g
        g = g.view_as(g)
        g.register_hook(hook)
        return g

    return pointwise(attach)


def _is_differentiated_forward(tensor: torch.Tensor) -> bool:
    if not in_dual_level():
        return False
    if torch.compiler.is_compiling():
        return True
    if not forward_grad_enabled():
        return False
    # Under torch.vmap, torch cannot tell whether a tensor has a tangent.
    if active_transforms() != []:
        return True
    return torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None
