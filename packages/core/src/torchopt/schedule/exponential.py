"""Exponential decay."""

from __future__ import annotations

import functools

import torch

from torchopt.authoring import checks
from torchopt.schedule.counts import as_float64
from torchopt.typing import Scalar, Schedule


def exponential_decay(
    init_value: Scalar,
    transition_steps: Scalar,
    decay_rate: Scalar,
    transition_begin: Scalar = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    r"""Multiply by ``decay_rate`` every ``transition_steps`` steps.

    .. math:: v(t) = v_0 r^{\max(t - b, 0) / T}

    Args:
        init_value: :math:`v_0`, held until ``transition_begin``.
        transition_steps: :math:`T` >= 1.
        decay_rate: :math:`r` > 0.
        transition_begin: :math:`b` >= 0.
        staircase: Round the exponent down, so that the value changes every :math:`T` steps.
        end_value: Bound of the value: a lower bound if ``decay_rate`` < 1, else an upper bound. A
            ``decay_rate`` that is a tensor counts as less than 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    checks.positive('transition_steps', transition_steps)
    if not isinstance(transition_steps, torch.Tensor) and transition_steps < 1:
        # A rate in its place, as in TorchOpt 0.7, would make the value grow.
        raise ValueError(
            f'transition_steps must be at least 1, got {transition_steps}: the arguments are '
            'init_value, transition_steps, decay_rate, in this order'
        )
    checks.positive('decay_rate', decay_rate)
    checks.nonnegative('transition_begin', transition_begin)
    return functools.partial(
        _exponential,
        init_value=init_value,
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
        staircase=staircase,
        end_value=end_value,
    )


def _exponential(
    count: torch.Tensor,
    *,
    init_value: Scalar,
    transition_steps: Scalar,
    decay_rate: Scalar,
    transition_begin: Scalar,
    staircase: bool,
    end_value: Scalar | None,
) -> torch.Tensor:
    exponent = (as_float64(count) - transition_begin).clamp_min(0) / transition_steps
    value: torch.Tensor = init_value * decay_rate ** (exponent.floor() if staircase else exponent)
    if end_value is None:
        return value
    decays = isinstance(decay_rate, torch.Tensor) or decay_rate < 1
    bound = torch.maximum if decays else torch.minimum
    return bound(value, torch.as_tensor(end_value, dtype=value.dtype, device=value.device))
