"""Schedules that begin with a line from a low value to a peak."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch

from torchopt.authoring import checks
from torchopt.schedule.constant import constant_schedule
from torchopt.schedule.cosine import cosine_decay_schedule
from torchopt.schedule.exponential import exponential_decay
from torchopt.schedule.joined import join_schedules
from torchopt.schedule.polynomial import linear_schedule
from torchopt.typing import Scalar, Schedule


def warmup_constant_schedule(
    init_value: Scalar, peak_value: Scalar, warmup_steps: Scalar
) -> Schedule:
    """Rise along a line, then stay.

    Args:
        init_value: Value at the first step.
        peak_value: Value from ``warmup_steps`` on.
        warmup_steps: Length of the line, >= 0.

    Raises:
        ValueError: ``warmup_steps`` is negative.
    """
    return _after_warmup(init_value, peak_value, warmup_steps, constant_schedule(peak_value))


def warmup_cosine_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Scalar,
    decay_steps: Scalar,
    end_value: Scalar = 0.0,
    exponent: Scalar = 1.0,
) -> Schedule:
    """Rise along a line, then fall along half a cosine; see :func:`cosine_decay_schedule`.

    Args:
        init_value: Value at the first step.
        peak_value: Value at the end of the line, not 0.
        warmup_steps: Length of the line, >= 0.
        decay_steps: Length of the whole, line included, > ``warmup_steps``.
        end_value: Value from ``decay_steps`` on.
        exponent: Exponent of the cosine, > 0.

    Raises:
        ValueError: a number is out of its range.
    """
    _require_not_zero(peak_value)
    falling = _decay_after(warmup_steps, decay_steps)
    decay = cosine_decay_schedule(peak_value, falling, end_value / peak_value, exponent)
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Scalar]]) -> Schedule:
    """Follow one :func:`warmup_cosine_decay_schedule` after the other: warm restarts.

    Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017.

    Args:
        cosine_kwargs: The arguments of each, as dictionaries. Each lasts for its ``decay_steps``.

    Raises:
        ValueError: there is none, or a number is out of its range.
    """
    cycles = list(cosine_kwargs)
    if not cycles:
        raise ValueError('cosine_kwargs is empty: there is no cycle to follow')
    ends = itertools.accumulate(cycle['decay_steps'] for cycle in cycles)
    schedules = [warmup_cosine_decay_schedule(**cycle) for cycle in cycles]
    return join_schedules(schedules, list(ends)[:-1])


def warmup_linear_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Scalar,
    decay_steps: Scalar,
    end_value: Scalar = 0.0,
) -> Schedule:
    """Rise along a line, then fall along another.

    Args:
        init_value: Value at the first step.
        peak_value: Value at the end of the first line.
        warmup_steps: Length of the first line, >= 0.
        decay_steps: Length of both lines together, > ``warmup_steps``.
        end_value: Value from ``decay_steps`` on.

    Raises:
        ValueError: a number is out of its range.
    """
    falling = _decay_after(warmup_steps, decay_steps)
    decay = linear_schedule(peak_value, end_value, falling)
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def warmup_exponential_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Scalar,
    transition_steps: Scalar,
    decay_rate: Scalar,
    transition_begin: Scalar = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    """Rise along a line, then decay exponentially; see :func:`exponential_decay`.

    Args:
        init_value: Value at the first step.
        peak_value: Value at the end of the line.
        warmup_steps: Length of the line, >= 0.
        transition_steps: Steps after the line in which the value is multiplied by
            ``decay_rate``, >= 1.
        decay_rate: Factor > 0.
        transition_begin: Steps after the line for which the peak is held, >= 0.
        staircase: Change the value every ``transition_steps`` steps only.
        end_value: Bound of the value after the line.

    Raises:
        ValueError: a number is out of its range.
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return _after_warmup(init_value, peak_value, warmup_steps, decay)


def _after_warmup(
    init_value: Scalar, peak_value: Scalar, warmup_steps: Scalar, schedule: Schedule
) -> Schedule:
    checks.nonnegative('warmup_steps', warmup_steps)
    if not isinstance(warmup_steps, torch.Tensor) and warmup_steps == 0:
        return schedule
    line = linear_schedule(init_value, peak_value, warmup_steps)
    return join_schedules([line, schedule], [warmup_steps])


def _decay_after(warmup_steps: Scalar, decay_steps: Scalar) -> Scalar:
    falling = decay_steps - warmup_steps
    if not isinstance(falling, torch.Tensor) and not falling > 0:
        raise ValueError(
            f'decay_steps, which counts the warm-up too, must be greater than warmup_steps, '
            f'got {decay_steps} and {warmup_steps}'
        )
    return falling


def _require_not_zero(peak_value: Scalar) -> None:
    if not isinstance(peak_value, torch.Tensor) and peak_value == 0:
        raise ValueError('peak_value must not be 0: end_value is reached as a fraction of it')
