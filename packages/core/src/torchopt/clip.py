"""Clipping of gradients."""

from __future__ import annotations

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.per_tensor import map_updates, stateless
from torchopt.base import GradientTransformation
from torchopt.typing import Params, Scalar, Updates

__all__ = ['clip_grad_norm']


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
        map_updates(lambda g: g, updates)  # names a leaf that is no tensor
        gradients = [g for g in pytree.tree_leaves(updates) if g.numel()]
        if not gradients:
            return updates
        # The norm may be needed on several devices: it is gathered on that of the first.
        device = gradients[0].device
        norms = [_norm(g, norm_type).to(device) for g in gradients]
        norm = _norm(torch.stack(norms), norm_type)
        if error_if_nonfinite and not torch.isfinite(norm):
            raise RuntimeError(
                f'the norm of order {norm_type} of the gradients is {norm.item()}, not finite; '
                'set error_if_nonfinite=False to scale by it all the same'
            )
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0)
        return map_updates(lambda g: g * factor.to(g.device), updates)

    return stateless(update)


def _norm(x: torch.Tensor, order: float) -> torch.Tensor:
    """Norm with derivatives of every order, 0 where ``x`` is 0.

    The norm that torch has gives NaN there from the second derivative on.
    """
    zero = (x == 0).all()
    norm = torch.linalg.vector_norm(torch.where(zero, 1.0, x), order)
    return torch.where(zero, 0.0, norm)
