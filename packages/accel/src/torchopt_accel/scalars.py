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
        lr = self.lr
        if lr is None or lr.dim() == 0 or leaves == range(len(lr)):
            return self
        return self._replace(lr=torch.stack([lr[leaf] for leaf in leaves]))
