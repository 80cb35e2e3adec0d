"""The cores of this machine."""

from __future__ import annotations

import os


def groups_of_cores(size: int) -> list[list[int]]:
    """Return as many disjoint groups of cores as there are."""
    available = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0)
    cores = sorted(available)
    if size > len(cores):
        raise SystemExit(f'--threads {size}: there are {len(cores)} cores')
    return [cores[i : i + size] for i in range(0, len(cores) - size + 1, size)]
