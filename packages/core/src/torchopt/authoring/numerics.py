"""The few numerical building blocks that the update rules share."""

from __future__ import annotations

import torch

from torchopt.typing import Scalar

# Low enough that its root vanishes beside every eps in use, high enough that the second and
# third derivatives of the root do not overflow. Both are normal numbers: where denormal ones are
# flushed to 0, a denormal floor would be none.
_ROOT_FLOOR = {torch.float64: 1e-150, torch.float32: 2e-38}


def ema(old: torch.Tensor, new: torch.Tensor, decay: Scalar) -> torch.Tensor:
    """Exponential moving average: ``decay * old + (1 - decay) * new``."""
    if isinstance(decay, torch.Tensor):
        return decay * old + (1 - decay) * new
    return torch.lerp(old, new, 1 - decay)


def ema_of_square(old: torch.Tensor, new: torch.Tensor, decay: Scalar) -> torch.Tensor:
    """Exponential moving average of a square: ``decay * old + (1 - decay) * new**2``."""
    if isinstance(decay, torch.Tensor):
        return decay * old + (1 - decay) * (new * new)
    return torch.addcmul(old * decay, new, new, value=1 - decay)


def add_scaled(x: torch.Tensor, y: torch.Tensor, factor: Scalar) -> torch.Tensor:
    """``x + factor * y``."""
    if isinstance(factor, torch.Tensor):
        return x + factor * y
    return torch.add(x, y, alpha=factor)


def safe_sqrt(x: torch.Tensor, eps_root: Scalar = 0.0) -> torch.Tensor:
    """``sqrt(x + eps_root)`` for ``x >= 0``, with derivative 0 where the argument is 0.

    The second moment ``nu`` depends on a gradient entry ``g`` through ``g**2``, whose derivative
    is 0 at ``g = 0``, so that there the root adds nothing to the derivative of the update:
    ``g / (abs(g) + eps)`` has the derivative ``1 / eps``. Autograd through ``sqrt(0)`` would
    multiply that 0 by infinity.
    """
    if isinstance(eps_root, torch.Tensor) or eps_root:
        x = x + eps_root
    if isinstance(eps_root, torch.Tensor) or not eps_root:
        x = x.clamp_min(_ROOT_FLOOR[x.dtype])
    return x.sqrt()
