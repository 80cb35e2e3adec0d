"""Schedules in pieces, between given numbers of steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from torchopt.authoring import checks
from torchopt.schedule.counts import as_float64, progress
from torchopt.schedule.joined import require_ascending
from torchopt.typing import Scalar, Schedule

Interpolation = Literal['linear', 'cosine']


def piecewise_constant_schedule(
    init_value: Scalar, boundaries_and_scales: Mapping[int, Scalar] | None = None
) -> Schedule:
    """Multiply a value at given numbers of steps.

    Args:
        init_value: Value at the first step.
        boundaries_and_scales: The factor, by the number of steps taken from which on it counts.

    Raises:
        ValueError: a number of steps is negative.
    """
    boundaries, scales = _sorted(boundaries_and_scales)
    return functools.partial(
        _piecewise_constant, init_value=init_value, boundaries=boundaries, scales=scales
    )


def _piecewise_constant(
    count: torch.Tensor,
    *,
    init_value: Scalar,
    boundaries: Sequence[int],
    scales: Sequence[Scalar],
) -> torch.Tensor:
    taken = as_float64(count)
    value = torch.zeros_like(taken) + init_value
    for boundary, scale in zip(boundaries, scales):
        value = torch.where(taken < boundary, value, value * scale)
    return value


def piecewise_interpolate_schedule(
    interpolate_type: Interpolation,
    init_value: Scalar,
    boundaries_and_scales: Mapping[int, Scalar] | None = None,
) -> Schedule:
    """Multiply a value at given numbers of steps, and move smoothly from one to the next.

    Args:
        interpolate_type: Move along a line, or along half a cosine.
        init_value: Value at the first step.
        boundaries_and_scales: The factor, by the number of steps taken at which it is reached.

    Raises:
        ValueError: a number of steps is not greater than 0, or the kind of interpolation is
            unknown.
    """
    if interpolate_type not in ('linear', 'cosine'):
        raise ValueError(f"interpolate_type must be 'linear' or 'cosine', got {interpolate_type!r}")
    boundaries, scales = _sorted(boundaries_and_scales)
    for boundary in boundaries:
        checks.positive('boundaries_and_scales', boundary)
    return functools.partial(
        _piecewise_interpolate,
        interpolate_type=interpolate_type,
        init_value=init_value,
        boundaries=boundaries,
        scales=scales,
    )


def _piecewise_interpolate(
    count: torch.Tensor,
    *,
    interpolate_type: Interpolation,
    init_value: Scalar,
    boundaries: Sequence[int],
    scales: Sequence[Scalar],
) -> torch.Tensor:
    value = torch.zeros_like(as_float64(count)) + init_value
    begin = 0
    for boundary, scale in zip(boundaries, scales):
        part = progress(count, boundary - begin, begin)
        if interpolate_type == 'cosine':
            part = 0.5 * (1 - torch.cos(math.pi * part))
        # Each piece multiplies the value by a factor that grows from 1 to the piece's scale, and
        # keeps it afterwards.
        value = value * (1 + (scale - 1) * part)
        begin = boundary
    return value


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Scalar,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: Scalar = 25.0,
    final_div_factor: Scalar = 1e4,
) -> Schedule:
    """Rise to a peak, fall back, then fall on to nearly 0, along lines.

    Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates*, 2018.

    Args:
        transition_steps: Number of steps in all.
        peak_value: Value at the peak.
        pct_start: Part of the steps that the rise takes.
        pct_final: Part of the steps at which the value is back at its first value.
        div_factor: The first value is ``peak_value / div_factor``.
        final_div_factor: The last value is the first value divided by this.

    Raises:
        ValueError: a number is out of its range.
    """
    checks.positive('transition_steps', transition_steps)
    return piecewise_interpolate_schedule(
        'linear',
        peak_value / div_factor,
        {
            int(pct_start * transition_steps): div_factor,
            int(pct_final * transition_steps): 1.0 / div_factor,
            transition_steps: 1.0 / final_div_factor,
        },
    )


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Scalar,
    pct_start: float = 0.3,
    div_factor: Scalar = 25.0,
    final_div_factor: Scalar = 1e4,
) -> Schedule:
    """Rise to a peak, then fall to nearly 0, each along half a cosine.

    Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates*, 2018, with the cosines of :class:`torch.optim.lr_scheduler.OneCycleLR`.

    Args:
        transition_steps: Number of steps in all.
        peak_value: Value at the peak.
        pct_start: Part of the steps that the rise takes.
        div_factor: The first value is ``peak_value / div_factor``.
        final_div_factor: The last value is the first value divided by this.

    Raises:
        ValueError: a number is out of its range.
    """
    checks.positive('transition_steps', transition_steps)
    return piecewise_interpolate_schedule(
        'cosine',
        peak_value / div_factor,
        {
            int(pct_start * transition_steps): div_factor,
            transition_steps: 1.0 / (div_factor * final_div_factor),
        },
    )


def _sorted(
    boundaries_and_scales: Mapping[int, Scalar] | None,
) -> tuple[tuple[int, ...], tuple[Scalar, ...]]:
    pairs = sorted((boundaries_and_scales or {}).items())
    boundaries = tuple(boundary for boundary, _ in pairs)
    require_ascending('boundaries_and_scales', boundaries)
    return boundaries, tuple(scale for _, scale in pairs)
