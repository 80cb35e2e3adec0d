"""Decay along half a cosine."""

from __future__ import annotations

import functools
import math

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import power
from torchopt.schedule.counts import progress
from torchopt.typing import Scalar, Schedule


def cosine_decay_schedule(
    init_value: Scalar, decay_steps: Scalar, alpha: Scalar = 0.0, exponent: Scalar = 1.0
) -> Schedule:
    r"""Decay along half a cosine.

    .. math::

        v(t) = v_0 \left((1 - \alpha)
            \left(\frac{1 + \cos(\pi \min(t, T) / T)}{2}\right)^p + \alpha\right)

    Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017,
    equation 5, without restarts.

    Args:
        init_value: :math:`v_0`.
        decay_steps: :math:`T` > 0.
        alpha: :math:`\alpha`, the value at the end as a fraction of ``init_value``.
        exponent: :math:`p` > 0.

    Raises:
        ValueError: ``decay_steps`` or ``exponent`` is not greater than 0.
    """
    checks.positive('decay_steps', decay_steps)
    checks.positive('exponent', exponent)
    return functools.partial(
        _cosine, init_value=init_value, decay_steps=decay_steps, alpha=alpha, exponent=exponent
    )


def _cosine(
    count: torch.Tensor,
    *,
    init_value: Scalar,
    decay_steps: Scalar,
    alpha: Scalar,
    exponent: Scalar,
) -> torch.Tensor:
    # Rounding must not take the base below 0, where a power is NaN.
    base = (0.5 * (1 + torch.cos(math.pi * progress(count, decay_steps)))).clamp_min(0)
    return init_value * ((1 - alpha) * power(base, exponent) + alpha)
