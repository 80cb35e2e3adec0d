"""Clipping of each tensor, or each entry, of the updates by itself."""

from __future__ import annotations

import math

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import norm
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import pointwise
from torchopt.base import GradientTransformation
from torchopt.typing import Scalar


@recorded
def clip_by_value(max_delta: Scalar) -> GradientTransformation:
    """Bound the magnitude of every entry.

    Its derivative is 0 beyond the bound. It equals ``optax.clip``.

    Args:
        max_delta: Largest magnitude, >= 0.

    Raises:
        ValueError: ``max_delta`` is negative.
    """
    checks.nonnegative('max_delta', max_delta)
    return pointwise(lambda u: u.clamp_min(-max_delta).clamp_max(max_delta))


@recorded
def clip_by_block_rms(threshold: Scalar) -> GradientTransformation:
    r"""Scale the update of each tensor down so that its root mean square is at most a threshold.

    .. math:: u' = \frac{u}{\max(1, \operatorname{rms}(u) / d)}

    Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, ICML 2018,
    section 6.

    Args:
        threshold: :math:`d` > 0.

    Raises:
        ValueError: ``threshold`` is not greater than 0.
    """
    checks.positive('threshold', threshold)

    def clipped(u: torch.Tensor) -> torch.Tensor:
        rms = norm(u) / math.sqrt(max(u.numel(), 1))
        return u / (rms / threshold).clamp_min(1.0)

    return pointwise(clipped)
