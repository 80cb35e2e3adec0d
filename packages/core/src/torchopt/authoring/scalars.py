"""Vectors with one number per leaf, as the scalars that a rule takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchopt.authoring.shards import PLAIN, replicated_like


class PerLeaf:
    """Gives each leaf its entries of the per-leaf vectors, as 0-dim tensors of the leaf's dtype.

    A vector is converted and unbound once per dtype and device, not once per leaf.
    """

    def __init__(self, vectors: Sequence[torch.Tensor]) -> None:
        self._vectors = vectors
        self._rows: dict[tuple[torch.dtype, torch.device], list[tuple[torch.Tensor, ...]]] = {}

    def at(self, position: int, dtype: torch.dtype, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the scalars of a leaf, on its device and on all of its ranks."""
        if not self._vectors:
            return ()
        key = dtype, like.device
        if key not in self._rows:
            unbound = [self._convert(vector, *key).unbind() for vector in self._vectors]
            self._rows[key] = list(zip(*unbound))
        row = self._rows[key][position]
        return row if type(like) in PLAIN else tuple(replicated_like(x, like) for x in row)

    @staticmethod
    def _convert(vector: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        # A 0-dim tensor on the CPU can be combined with any device, without waiting for it.
        return vector.to(dtype) if vector.device.type == 'cpu' else vector.to(device, dtype)
