"""Batch dimensions under ``torch.vmap``: more elements for the kernels, or more leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt_accel.roles import Call, join, split
from torchopt_accel.scalars import Maybe, Scalars

Dim = int | None


class Batch:
    """Rewrites a call over batched tensors as a call over plain tensors.

    Kernels are elementwise, so a batch can be one more dimension, the first. Where the
    scalars of a leaf differ over the batch, or a sum must not run over the batch, every leaf
    becomes one leaf per element of the batch: within a role, all leaves of the first element, then
    all leaves of the second, and so on.
    """

    def __init__(self, call: Call, size: int) -> None:
        self._call = call
        self._size = size

    def to_front(self, tensors: Sequence[Maybe], dims: Sequence[Dim]) -> list[Maybe]:
        """Make the batch the first dimension of every tensor."""
        return [
            None if tensor is None else self._front(tensor, dim)
            for tensor, dim in zip(tensors, dims)
        ]

    def unbind(self, tensors: Sequence[Maybe], dims: Sequence[Dim]) -> list[Maybe]:
        """Return a flat list in which every element of the batch has leaves of its own."""
        rows = [
            (None,) * self._size if tensor is None else self._front(tensor, dim).unbind()
            for tensor, dim in zip(tensors, dims)
        ]
        roles = split(rows, len(rows) // self._call.count)
        return join([row[i] for i in range(self._size) for row in role] for role in roles)

    def stack(self, flat: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Undo :meth:`unbind`."""
        count = self._call.count
        roles = split(flat, len(flat) // (count * self._size))
        return tuple(
            torch.stack(list(role[leaf::count])) for role in roles for leaf in range(count)
        )

    def unbind_scalars(self, scalars: Scalars, dims: Sequence[Dim]) -> tuple[Call, Scalars]:
        """Return the call and the scalars that go with :meth:`unbind`."""
        call, size = self._call, self._size
        lr, *vectors = scalars
        lr_dim, *vector_dims = dims
        # Where each element of the batch begins in the vectors of step counts and numbers.
        offsets = [0] * size
        if any(dim is not None for dim in vector_dims):
            rows = self.to_front(vectors, vector_dims)
            lengths = {row.shape[1] for row in rows if row is not None}
            offsets = [element * max(lengths) for element in range(size)]
            vectors = [None if row is None else row.flatten() for row in rows]
        if lr is not None:
            rates = self._front(lr, lr_dim)
            if rates.dim() == 1:
                rates = rates.unsqueeze(1)
            lr = rates.expand(size, call.count).flatten()
        positions = [offset + position for offset in offsets for position in call.positions]
        return Call(call.spec, positions, call.with_params), Scalars(lr, *vectors)

    def lr_grad(self, flat: torch.Tensor, per_leaf: bool) -> torch.Tensor:
        """Return the cotangent of lr per element of the batch, from one entry per unbound leaf."""
        rows = flat.reshape(self._size, self._call.count)
        return rows if per_leaf else rows.sum(1)

    def _front(self, tensor: torch.Tensor, dim: Any) -> torch.Tensor:
        if dim is None:
            return tensor.expand(self._size, *tensor.shape)
        return tensor.movedim(dim, 0)
