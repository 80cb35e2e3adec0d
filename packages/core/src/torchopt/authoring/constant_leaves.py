"""Leaves of autograd's graph that require grad and yet count as constants."""

from __future__ import annotations

import torch

_MARK = '_torchopt_constant'


def make_constant(leaf: torch.Tensor) -> None:
    """Let a leaf that requires grad count as a constant, because its gradient has been taken."""
    setattr(leaf, _MARK, True)


def is_constant(leaf: torch.Tensor) -> bool:
    """Tell whether a leaf counts as a constant."""
    return hasattr(leaf, _MARK)
