"""Batch dimensions under ``torch.vmap``: more elements for the kernels, or more leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt_accel.call import Call

Maybe = torch.Tensor | None
Dim = int | None


class Batch:
    """Rewrites a call over batched tensors as one over plain tensors.

    Kernels are elementwise, so that a batch is a first dimension like any other. Where the
    numbers of a leaf differ over the batch (learning rate, step count), or a sum must not run
    over it, every leaf becomes one leaf for each element of the batch, element after element.
    """

    def __init__(self, call: Call, size: int) -> None:
        self._call = call
        self._size = size

    def to_front(self, tensors: Sequence[Maybe], dims: Sequence[Dim]) -> list[Maybe]:
        """Give every tensor the batch as its first dimension."""
        return [
            None if tensor is None else self._front(tensor, dim)
            for tensor, dim in zip(tensors, dims)
        ]

    def unbind(self, tensors: Sequence[Maybe], dims: Sequence[Dim]) -> list[Maybe]:
        """Take every tensor apart along the batch."""
        flat: list[Maybe] = []
        rows = [
            (None,) * self._size if tensor is None else self._front(tensor, dim).unbind()
            for tensor, dim in zip(tensors, dims)
        ]
        count = self._call.count
        for start in range(0, len(rows), count):
            flat += [row[i] for i in range(self._size) for row in rows[start : start + count]]
        return flat

    def stack(self, flat: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Undo :meth:`unbind`."""
        count = self._call.count
        stacked: list[torch.Tensor] = []
        for start in range(0, len(flat), count * self._size):
            role = flat[start : start + count * self._size]
            stacked += [torch.stack(list(role[leaf::count])) for leaf in range(count)]
        return tuple(stacked)

    def flat_call(self, steps_dim: Dim) -> Call:
        """Return the call that goes with :meth:`unbind`."""
        positions: list[int] = []
        for element in range(self._size):
            # counts() leaves one row of counts if they are not batched.
            offset = 0 if steps_dim is None else element * self._width
            positions += [offset + position for position in self._call.positions]
        return Call(self._call.plan, self._call.count * self._size, positions)

    def counts(self, steps: Maybe, dim: Dim) -> Maybe:
        """Return the step counts as one vector."""
        if steps is None or dim is None:
            return steps
        front = self._front(steps, dim)
        self._width = front.shape[1]
        return front.flatten()

    def rates(self, lr: Maybe, dim: Dim) -> Maybe:
        """Return the learning rates as one vector with an entry for each flat leaf."""
        if lr is None:
            return None
        front = self._front(lr, dim)
        if front.dim() == 1:
            front = front.unsqueeze(1)
        return front.expand(self._size, self._call.count).flatten()

    def lr_grad(self, flat: torch.Tensor, per_leaf: bool) -> torch.Tensor:
        """Return the cotangent of lr for each element of the batch from that of :meth:`rates`."""
        rows = flat.reshape(self._size, self._call.count)
        return rows if per_leaf else rows.sum(1)

    def _front(self, tensor: torch.Tensor, dim: Any) -> torch.Tensor:
        if dim is None:
            return tensor.expand(self._size, *tensor.shape)
        return tensor.movedim(dim, 0)
