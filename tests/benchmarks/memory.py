"""Peak memory of a computation."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from pathlib import Path

import torch

MIB = 2**20


class PeakMemory:
    """Peak memory in the block, beyond the memory held at its start.

    On a GPU, memory that torch has allocated; otherwise, resident memory of the process.

    Attributes:
        mebibytes: The result, after the block; NaN where it is unknown.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self._on_gpu = device == 'cuda'
        self.mebibytes = math.nan

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = _reset() if sys.platform == 'linux' else math.nan
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = math.nan if math.isnan(self._before) else _status('VmHWM')
        self.mebibytes = (peak - self._before) / MIB


def _reset() -> float:
    """Reset the high-water mark to the resident memory; return the latter in bytes."""
    # Memory that the allocator holds free would hide later allocations. Not every C library can
    # return it to the system.
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return math.nan
    return _status('VmRSS')


def _status(name: str) -> int:
    """Return an entry of this process's status in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f'{name}:'))
    return int(kibibytes) * 1024
