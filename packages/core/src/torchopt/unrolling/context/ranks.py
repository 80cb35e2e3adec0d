"""Tangents that are summed over ranks, which need the same meta-parameters on every rank."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from torchopt.authoring.torch_internals import process_group


class _Noted(threading.local):
    groups: dict[str, None] | None = None


_noted = _Noted()


def note_tangents(group: str) -> None:
    """Note that tangents are summed over the ranks of the group of this name."""
    if _noted.groups is not None:
        _noted.groups[group] = None


@contextmanager
def noting_tangents() -> Iterator[dict[str, None]]:
    """Note, as keys of a dictionary, the groups over which tangents are summed in the block."""
    before, _noted.groups = _noted.groups, {}
    try:
        yield _noted.groups
    finally:
        _noted.groups = before


def require_same_on_ranks(groups: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    """Raise if ``tensors`` differ between the ranks of one of ``groups``.

    Raises:
        RuntimeError: they do, on all ranks of the group.
    """
    if not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
    for group in groups:
        extremes = torch.stack([flat, -flat])
        dist.all_reduce(extremes, dist.ReduceOp.MAX, process_group(group))
        if not torch.equal(extremes[0], -extremes[1]):
            raise RuntimeError(
                'ForwardMode() sums tangents over ranks in sum_over_ranks or mean_over_ranks, and '
                'the tensors that require grad differ between ranks, so that derivatives by '
                'different numbers would be mixed: give all ranks the same meta-parameters, or '
                'use Recomputed() or Snapshots()'
            )
