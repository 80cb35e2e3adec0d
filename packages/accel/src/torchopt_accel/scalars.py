"""The scalars of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

Maybe = torch.Tensor | None


class Scalars(NamedTuple):
    """What the elements of a leaf have in common in a step, if it is in tensors.

    Attributes:
        lr: The learning rate if it is a tensor: 0-dim, or one entry per leaf.
        steps: Step counts after this step, int64, for the kernels that need them.
        numbers: Numbers before this step, float64, of a rule that keeps one for each leaf.
    """

    lr: Maybe
    steps: Maybe
    numbers: Maybe

    def of(self, leaves: Sequence[int]) -> Scalars:
        """Return the scalars for a call with some of the leaves, whose positions it knows."""
        return self if self.lr is None else self._replace(lr=rate_at(self.lr, leaves))


def rate_at(lr: torch.Tensor, leaves: Sequence[int]) -> torch.Tensor:
    """Return the learning rate of some of the leaves."""
    if lr.dim() == 0 or leaves == range(len(lr)):
        return lr
    return torch.stack([lr[leaf] for leaf in leaves])
