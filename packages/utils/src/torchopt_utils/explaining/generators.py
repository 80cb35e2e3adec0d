"""The generators of torch, put back where they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def preserved(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Restore the generators of the CPU and of the devices of ``tensors`` after the block."""
    elsewhere = {t.device for t in tensors if t.device.type not in ('cpu', 'meta')}
    kind = next(iter(elsewhere)).type if elsewhere else 'cuda'
    numbers = sorted({device.index or 0 for device in elsewhere})
    with torch.random.fork_rng(numbers, device_type=kind):
        yield
