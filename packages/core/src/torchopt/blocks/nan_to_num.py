"""Replacement of updates that are not finite."""

from __future__ import annotations

import torch

from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import pointwise
from torchopt.base import GradientTransformation


@recorded
def nan_to_num(
    nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> GradientTransformation:
    """Replace NaN by ``nan`` and infinities by ``posinf`` and ``neginf``.

    None stands for the largest and the least finite value, as in :func:`torch.nan_to_num`.
    """
    return pointwise(lambda g: torch.nan_to_num(g, nan=nan, posinf=posinf, neginf=neginf))
