"""A value that stays."""

from __future__ import annotations

import functools

import torch

from torchopt.schedule.counts import as_float64
from torchopt.typing import Scalar, Schedule


def constant_schedule(value: Scalar) -> Schedule:
    """Return ``value`` at every step.

    Args:
        value: The value.
    """
    return functools.partial(_constant, value=value)


def _constant(count: torch.Tensor, *, value: Scalar) -> torch.Tensor:
    return torch.zeros_like(as_float64(count)) + value
