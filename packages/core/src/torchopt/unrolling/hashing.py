"""Hashes of the elements of tensors."""

from __future__ import annotations

from typing import Any

import torch

_CHUNK = 2**24  # elements that are on the CPU at a time


def update_with(found: Any, tensor: torch.Tensor) -> None:
    """Let a hash of :mod:`hashlib` take in the elements of a plain tensor."""
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    for chunk in dense.resolve_conj().resolve_neg().reshape(-1).split(_CHUNK):
        found.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
