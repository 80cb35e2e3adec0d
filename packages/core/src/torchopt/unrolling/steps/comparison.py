"""A second run of a step is compared with the first, where that costs next to nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.authoring.shards import local_part
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop

_MOST_LEAVES = 4
_MOST_ELEMENTS = 4096


class Outcome(NamedTuple):
    """A few small tensors of the carry that a step returned in the forward pass.

    Attributes:
        positions: Their positions among the leaves of the carry.
        tensors: The tensors.
    """

    positions: list[int]
    tensors: list[torch.Tensor]

    @classmethod
    def of(cls, positions: list[int], carry: Leaves) -> Outcome:
        """Take the tensors at ``positions`` from ``carry``; of a DTensor this rank's part."""
        return cls(positions, [local_part(carry[position]) for position in positions])

    def require_same(self, loop: Loop, number: int, before: Leaves, after: Leaves) -> None:
        """Raise if a second run of a step gave another result than the first.

        Rounding may differ, by a thousandth of the step.

        Args:
            loop: The loop of the step.
            number: Number of the step.
            before: Leaves of the carry before the step.
            after: Leaves of the carry that the second run returned.

        Raises:
            RuntimeError: a tensor differs by more; the message names it.
        """
        for position, expected in zip(self.positions, self.tensors):
            found = local_part(after[position].detach())
            if torch.equal(found, expected):
                continue
            step = _norm(expected - local_part(before[position]))
            rounding = 64 * torch.finfo(expected.dtype).eps * _norm(expected)
            # Where the run went to infinity or NaN, the comparison is False.
            if _norm(found - expected) > 1e-3 * step + rounding:
                where = loop.carry_structure.accessors()[position].codify('carry')
                raise RuntimeError(
                    f'step {loop.first + number} of unroll gives another {where} when the backward '
                    'pass runs it again. It depends on something beside its arguments that is '
                    'neither replayed nor watched, such as random numbers that are not from torch, '
                    'or a variable that has changed: pass that through the carry, xs or consts, or '
                    'use backward=Stored()'
                )


def comparable(carry: Leaves) -> list[int]:
    """Return the positions of a few small floating-point tensors on the CPU.

    Elsewhere a comparison would wait for the device.
    """
    small = [
        (leaf.numel(), position)
        for position, leaf in enumerate(carry)
        if isinstance(leaf, torch.Tensor)
        and leaf.device.type == 'cpu'
        and leaf.is_floating_point()
        and 0 < leaf.numel() <= _MOST_ELEMENTS
    ]
    return [position for _, position in sorted(small)[:_MOST_LEAVES]]


def _norm(tensor: torch.Tensor) -> float:
    norm: float = torch.linalg.vector_norm(tensor.double()).item()
    return norm
