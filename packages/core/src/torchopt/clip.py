"""Clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.numerics import SIXTEEN_BIT
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.shards import filled_on_all_ranks
from torchopt.authoring.transformation import stateless
from torchopt.base import GradientTransformation
from torchopt.typing import Params, Scalar, Updates

__all__ = ['clip_grad_norm']


@recorded
def clip_grad_norm(
    max_norm: Scalar, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> GradientTransformation:
    """Scale all gradients down by one factor, so that their joint norm is at most ``max_norm``.

    The result equals :func:`torch.nn.utils.clip_grad_norm_`, which divides by the norm plus 1e-6.
    If every gradient is 0, the derivative of the norm is taken to be 0.

    Args:
        max_norm: Largest norm, >= 0.
        norm_type: Order of the norm, > 0; ``inf`` for the largest magnitude.
        error_if_nonfinite: Raise if the norm is not finite. This check waits for the device, and
            cannot be compiled or batched.

    Raises:
        ValueError: a number is out of its range.
        RuntimeError: at ``update``, the norm is not finite and ``error_if_nonfinite`` is set.
    """
    checks.nonnegative('max_norm', max_norm)
    checks.positive('norm_type', norm_type)

    def update(updates: Updates, params: Params | None) -> Updates:
        map_updates(lambda g: g, updates)  # raises if a leaf is not a tensor, and names the leaf
        gradients = [g for g in pytree.tree_leaves(updates) if g.numel()]
        if not gradients:
            return updates
        norm = _total_norm(gradients, norm_type)
        if error_if_nonfinite and not torch.isfinite(norm):
            raise RuntimeError(
                f'the norm of order {norm_type} of the gradients is {norm.item()}, not finite; '
                'set error_if_nonfinite=False to scale by it anyway'
            )
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0)
        return map_updates(lambda g: g * factor.to(g.device), updates)

    return stateless(update)


def _total_norm(gradients: Sequence[torch.Tensor], order: float) -> torch.Tensor:
    """Return the joint norm of all gradients; its derivative is 0 if all gradients are 0."""
    # The gradients may lie on several devices: add their norms on the device of the first.
    device = gradients[0].device
    magnitudes = torch.stack([filled_on_all_ranks(g).abs().amax().to(device) for g in gradients])
    largest = magnitudes.amax()
    if order == math.inf:
        return largest
    # The p-th powers overflow and underflow unless their bases are near 1. The scale is detached:
    # the norm does not depend on it.
    scale = largest.detach()
    scale = torch.where(scale.isfinite(), scale, 1.0).clamp_min(torch.finfo(scale.dtype).tiny)
    total = torch.stack([_power_sum(g / scale.to(g.device), order).to(device) for g in gradients])
    zero = largest == 0
    root = torch.where(zero, 1.0, total.sum()) ** (1 / order)
    return torch.where(zero, 0.0, root) * scale


def _power_sum(x: torch.Tensor, order: float) -> torch.Tensor:
    """Return the sum of ``abs(x) ** order``, in float32 for 16-bit tensors."""
    if x.dtype in SIXTEEN_BIT:
        x = x.float()
    if order == 2:
        # Unlike a tensor's norm, its square has no kink where the whole tensor is 0.
        return x.square().sum()
    zero = x == 0
    powers: torch.Tensor = torch.where(zero, 1.0, x).abs() ** order
    return torch.where(zero, 0.0, powers).sum()
