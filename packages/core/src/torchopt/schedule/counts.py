"""What all schedules do with the number of steps taken.

Schedules are made with :func:`functools.partial`: they can be pickled, and their repr shows their
numbers.
"""

from __future__ import annotations

import torch

from torchopt.typing import Scalar


def as_float64(count: torch.Tensor | float) -> torch.Tensor:
    """Return the number of steps taken as a floating-point tensor."""
    if isinstance(count, torch.Tensor):
        return count if count.is_floating_point() else count.to(torch.float64)
    return torch.tensor(count, dtype=torch.float64)


def progress(count: torch.Tensor | float, steps: Scalar, begin: Scalar = 0) -> torch.Tensor:
    """Return which part of ``steps`` has been taken since ``begin``, from 0 to 1."""
    elapsed: torch.Tensor = (as_float64(count) - begin) / steps
    return elapsed.clamp(0, 1)
