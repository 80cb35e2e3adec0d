"""Leaves that are spread over ranks: kernels run on the part that each rank holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from torchopt.authoring.shards import placement_of
from torchopt_accel.roles import Mismatch

Rows = Sequence[list[Any]]


class Spread:
    """The DTensors of a step, which give way to local parts while the kernels run.

    Kernels are elementwise: where all tensors of a leaf are placed alike, the local parts of the
    results are the results of the local parts.
    """

    def __init__(self, likes: dict[int, Any], originals: Rows) -> None:
        self._likes = likes
        self._originals = originals

    @staticmethod
    def found_in(rows: Rows, leaves: Iterable[int]) -> Spread | None:
        """Return how the leaves are spread; None if no kernel can take their local parts.

        A kernel can't where a leaf is a DTensor in one row and another tensor, or placed in
        another way, in another; and where it is a sum that has yet to be added up.
        """
        likes = {}
        for leaf in leaves:
            placements = [placement_of(row[leaf]) for row in rows]
            first = placements[0]
            if first is None or any(placement != first for placement in placements):
                return None
            if any(part.is_partial() for part in first.placements):
                return None
            likes[leaf] = rows[0][leaf]
        return Spread(likes, rows)

    def local(self, row: list[Any]) -> list[Any]:
        """Return the row with local parts; derivatives pass."""
        return [
            value.to_local() if position in self._likes else value
            for position, value in enumerate(row)
        ]

    def whole(self, row: list[Any]) -> list[Any]:
        """Undo :meth:`local`, also for new tensors in the place of those that it returned."""
        results = list(row)
        for position, like in self._likes.items():
            part = row[position]
            strides = torch.empty(like.shape, device='meta').stride()
            results[position] = type(like).from_local(
                part,
                like.device_mesh,
                like.placements,
                run_check=False,
                shape=like.shape,
                stride=strides if part.is_contiguous() else like.stride(),
            )
        return results

    def require_constant(self, lr: torch.Tensor) -> None:
        """Raise if a learning rate has a derivative, which would have to be added up over ranks.

        Raises:
            Mismatch: it has one, or is a DTensor. The composite rule takes it.
        """
        if lr.requires_grad or placement_of(lr) is not None:
            raise Mismatch('kernels take a constant learning rate for parts of tensors')

    def count_writes(self) -> None:
        """Count a write into each DTensor, as autograd would: kernels write into their parts."""
        for row in self._originals:
            for leaf in self._likes:
                torch.autograd.graph.increment_version(row[leaf])
