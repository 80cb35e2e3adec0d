"""One step over a flat list of tensors, and how the list is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchopt_accel.plans import Plan


@dataclass(frozen=True, eq=False)
class Call:
    """What a step needs besides its tensors.

    Its tensors are ``count`` gradients, as many parameters if the plan decays weights, and as
    many of each state, role after role.

    Attributes:
        plan: The kernel and its numbers.
        count: Number of leaves.
        positions: Where in the vector of step counts each leaf's is.
    """

    plan: Plan
    count: int
    positions: Sequence[int]

    def split(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], list[Any]]:
        """Return gradients, parameters and the columns of states."""
        grads, params, *columns = self.roles(tensors)
        return grads, params, columns

    def roles(self, tensors: Sequence[Any]) -> list[Sequence[Any]]:
        """Take a list apart into its roles; that of the parameters is empty without decay."""
        count = self.count
        parts = [tensors[i : i + count] for i in range(0, len(tensors), count)]
        if not self.plan.decays:
            parts.insert(1, [])
        return parts
