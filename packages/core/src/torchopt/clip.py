"""Clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates, stateless
from torchopt.base import GradientTransformation
from torchopt.typing import Params, Scalar, Updates

__all__ = ['clip_grad_norm']


@recorded
def clip_grad_norm(
    max_norm: Scalar, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> GradientTransformation:
    """Scale gradients down so that the norm of all of them together is at most ``max_norm``.

    It equals :func:`torch.nn.utils.clip_grad_norm_`, which divides by the norm plus 1e-6. Where
    every gradient is 0 the norm's derivative is taken to be 0.

    Args:
        max_norm: Largest norm, >= 0.
        norm_type: Order of the norm, > 0; ``inf`` for the largest magnitude.
        error_if_nonfinite: Raise where the norm is not finite, which waits for the device and
            can't be compiled or batched.

    Raises:
        ValueError: a number is out of its range.
        RuntimeError: at ``update``, the norm is not finite and ``error_if_nonfinite`` is set.
    """
    checks.nonnegative('max_norm', max_norm)
    checks.positive('norm_type', norm_type)

    def update(updates: Updates, params: Params | None) -> Updates:
        map_updates(lambda g: g, updates)  # names a leaf that is not a tensor
        gradients = [g for g in pytree.tree_leaves(updates) if g.numel()]
        if not gradients:
            return updates
        norm = _total_norm(gradients, norm_type)
        if error_if_nonfinite and not torch.isfinite(norm):
            raise RuntimeError(
                f'the norm of order {norm_type} of the gradients is {norm.item()}, not finite; '
                'set error_if_nonfinite=False to scale by it all the same'
            )
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0)
        return map_updates(lambda g: g * factor.to(g.device), updates)

    return stateless(update)


def _total_norm(gradients: Sequence[torch.Tensor], order: float) -> torch.Tensor:
    """Return the norm of all gradients together, with derivatives 0 where all are 0."""
    # The norm may be needed on several devices: it is gathered on the first one's.
    device = gradients[0].device
    magnitudes = torch.stack([g.abs().amax().to(device) for g in gradients])
    largest = magnitudes.amax()
    if order == math.inf:
        return largest
    # A norm of order p adds powers of p, which overflow and underflow unless they are taken of
    # numbers near 1. The scale is a constant: the norm does not depend on it.
    scale = largest.detach()
    scale = torch.where(scale.isfinite(), scale, 1.0).clamp_min(torch.finfo(scale.dtype).tiny)
    total = torch.stack([_power_sum(g / scale.to(g.device), order).to(device) for g in gradients])
    zero = largest == 0
    root = torch.where(zero, 1.0, total.sum()) ** (1 / order)
    return torch.where(zero, 0.0, root) * scale


def _power_sum(x: torch.Tensor, order: float) -> torch.Tensor:
    """Return the sum of ``abs(x) ** order``, in float32 for 16-bit tensors."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    if order == 2:
        # Smooth also where a whole tensor is 0, while the norm of that tensor has a kink.
        return x.square().sum()
    zero = x == 0
    powers: torch.Tensor = torch.where(zero, 1.0, x).abs() ** order
    return torch.where(zero, 0.0, powers).sum()
