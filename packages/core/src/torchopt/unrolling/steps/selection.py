"""Which cotangents a compiled vjp takes and returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchopt.unrolling.leaves import Leaves, is_differentiable, tensors_of
from torchopt.unrolling.steps.compilation import has_standard_layout, standard_layout
from torchopt.unrolling.vjp import Cotangents


@dataclass(frozen=True)
class Selection:
    """Which cotangents a compiled vjp takes and returns.

    Attributes:
        needed: For every tensor of the carry, of ``x`` and of consts, whether a cotangent is
            returned.
        y_mask: For every tensor of ``y``, whether there is a cotangent.
        taken: Positions of the cotangents that are taken, the cotangents of the carry first.
        end: How many of these belong to the carry.
    """

    needed: list[bool]
    y_mask: tuple[bool, ...]
    taken: list[int]
    end: int

    @classmethod
    def of(cls, carry: Leaves, cotangents: Cotangents, needed: Sequence[bool]) -> Selection:
        """Select for a step.

        Args:
            carry: Leaves of the carry before the step.
            cotangents: One for every tensor of the next carry, then of ``y``.
            needed: Which tensors of the carry, of ``x`` and of consts need a cotangent.
        """
        # Differentiate the first step by its whole carry, too: another choice is another graph.
        differentiable = [is_differentiable(tensor) for tensor in tensors_of(carry)]
        end = len(differentiable)
        y_mask = tuple(cotangent is not None for cotangent in cotangents[end:])
        taken = [number for number, take in enumerate([*differentiable, *y_mask]) if take]
        return cls([*differentiable, *needed[end:]], y_mask, taken, sum(differentiable))

    def dense(self, carry: Leaves, cotangents: Cotangents) -> list[torch.Tensor]:
        """Return the cotangents that are taken, each a tensor of its own, in one layout.

        The first cotangent is often expanded, with strides of 0.
        """
        like = tensors_of(carry)
        found = ((number, cotangents[number]) for number in self.taken)
        return [
            standard_layout(torch.zeros_like(like[number]) if cotangent is None else cotangent)
            for number, cotangent in found
        ]

    def loose(self, found: Sequence[torch.Tensor]) -> list[int]:
        """Return which cotangents of the carry, as a vjp returns them, have another layout."""
        return [
            place for place, value in enumerate(found[: self.end]) if not has_standard_layout(value)
        ]

    def following(self, cotangents: Cotangents, loose: Sequence[int]) -> list[torch.Tensor]:
        """Return the same as :meth:`dense` for what the vjp of the step after has returned.

        Args:
            cotangents: One for every tensor of the next carry, then of ``y``.
            loose: Which cotangents of the carry have another layout.
        """
        dense: list[Any] = [cotangents[number] for number in self.taken]
        for place in (*loose, *range(self.end, len(dense))):
            dense[place] = standard_layout(dense[place])
        return dense

    def placed(self, found: Sequence[torch.Tensor]) -> Cotangents:
        """Return one cotangent for every tensor of the carry, of ``x`` and of consts."""
        supply = iter(found)
        return [next(supply) if need else None for need in self.needed]
