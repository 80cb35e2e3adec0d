"""Schedules: functions from the number of steps taken to a value such as a learning rate.

A schedule takes a 0-dim float64 tensor or a number and returns a 0-dim tensor. Its arguments may
be 0-dim tensors that require grad.
"""

from __future__ import annotations

import functools

import torch

from torchopt.authoring import checks
from torchopt.typing import Scalar, Schedule

__all__ = ['exponential_decay', 'linear_schedule', 'polynomial_schedule']


def polynomial_schedule(
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    r"""Move from one value to another along a polynomial.

    .. math::

        v(t) = (v_0 - v_1) \left(1 - \frac{\min(\max(t - b, 0), T)}{T}\right)^p + v_1

    Args:
        init_value: :math:`v_0`, held until ``transition_begin``.
        end_value: :math:`v_1`, held from ``transition_begin + transition_steps``.
        power: :math:`p` > 0.
        transition_steps: :math:`T` > 0.
        transition_begin: :math:`b` >= 0.

    Raises:
        ValueError: ``power``, ``transition_steps`` or ``transition_begin`` is out of its range.
    """
    checks.positive('power', power)
    checks.positive('transition_steps', transition_steps)
    checks.nonnegative('transition_begin', transition_begin)

    return functools.partial(
        _polynomial,
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )


# Schedules are made with functools.partial: they can be pickled, and their repr shows the numbers.
def _polynomial(
    count: torch.Tensor,
    *,
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: int,
    transition_begin: int,
) -> torch.Tensor:
    elapsed = (_float64(count) - transition_begin).clamp(0, transition_steps)
    return (init_value - end_value) * (1 - elapsed / transition_steps) ** power + end_value


def linear_schedule(
    init_value: Scalar, end_value: Scalar, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """Move from one value to another along a line: :func:`polynomial_schedule` of power 1."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def exponential_decay(
    init_value: Scalar,
    transition_steps: int,
    decay_rate: Scalar,
    transition_begin: int = 0,
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
    transition_steps: int,
    decay_rate: Scalar,
    transition_begin: int,
    staircase: bool,
    end_value: Scalar | None,
) -> torch.Tensor:
    exponent = (_float64(count) - transition_begin).clamp_min(0) / transition_steps
    value: torch.Tensor = init_value * decay_rate ** (exponent.floor() if staircase else exponent)
    if end_value is None:
        return value
    decays = isinstance(decay_rate, torch.Tensor) or decay_rate < 1
    bound = torch.maximum if decays else torch.minimum
    return bound(value, torch.as_tensor(end_value, dtype=value.dtype, device=value.device))


def _float64(count: torch.Tensor | float) -> torch.Tensor:
    if isinstance(count, torch.Tensor):
        return count if count.is_floating_point() else count.to(torch.float64)
    return torch.tensor(count, dtype=torch.float64)
