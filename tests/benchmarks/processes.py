"""How the processes that measure are started, on which cores, and which are worth starting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def settings(threads: int = 1, **variables: str) -> dict[str, Any]:
    """Return the arguments of ``subprocess.run`` with which ``python -m PART.measure`` runs."""
    return {
        'cwd': Path(__file__).parent,
        'env': {
            **os.environ,
            **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads)),
            'PYTHONDONTWRITEBYTECODE': '1',
            **variables,
        },
    }


def groups_of_cores(size: int) -> list[list[int]]:
    """Return the cores of this machine in as many disjoint groups of ``size`` as there are."""
    available = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0)
    cores = sorted(available)
    if size > len(cores):
        raise SystemExit(f'--threads {size}: this machine has {len(cores)} cores')
    return [cores[i : i + size] for i in range(0, len(cores) - size + 1, size)]


def extrapolated(known: Mapping[int, float], steps: int) -> float:
    """Extrapolate linearly from the two longest runs; return 0 if fewer than two are known.

    Args:
        known: Memory or time, by the number of steps.
        steps: A larger number than any in ``known``.
    """
    if len(known) < 2:
        return 0.0
    (short, less), (long, more) = sorted(known.items())[-2:]
    return more + (more - less) / (long - short) * (steps - long)
