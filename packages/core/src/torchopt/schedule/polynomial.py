"""Movement along a polynomial."""

from __future__ import annotations

import functools

import torch

from torchopt.authoring import checks, numerics
from torchopt.schedule.counts import progress
from torchopt.typing import Scalar, Schedule


def polynomial_schedule(
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: Scalar,
    transition_begin: Scalar = 0,
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


def _polynomial(
    count: torch.Tensor,
    *,
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: Scalar,
    transition_begin: Scalar,
) -> torch.Tensor:
    remaining = 1 - progress(count, transition_steps, transition_begin)
    return (init_value - end_value) * numerics.power(remaining, power) + end_value


def linear_schedule(
    init_value: Scalar, end_value: Scalar, transition_steps: Scalar, transition_begin: Scalar = 0
) -> Schedule:
    """Move from one value to another along a line: :func:`polynomial_schedule` of power 1."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)
