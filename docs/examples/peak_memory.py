"""Peak memory of a function, measured in a new process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch


def peak_memory(
    function: Callable[..., Any], args: tuple[Any, ...], warm_up: tuple[Any, ...]
) -> float:
    """Return the peak growth of memory in MiB while a new process calls ``function``.

    Args:
        function: The function; the new process must be able to import it by its name.
        args: The arguments of the measured call.
        warm_up: The arguments of a short call before it, which loads what is loaded once.
    """
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_growth, function, args, warm_up).result()


def _growth(function: Callable[..., Any], args: tuple[Any, ...], warm_up: tuple[Any, ...]) -> float:
    torch.set_num_threads(1)
    function(*warm_up)
    if sys.platform == 'linux':
        # Reset the peak to the memory that is resident now.
        Path('/proc/self/clear_refs').write_text('5')
    before = _most_so_far()
    function(*args)
    return _most_so_far() - before


def _most_so_far() -> float:
    if sys.platform == 'linux':
        lines = Path('/proc/self/status').read_text().splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith('VmHWM:'))
        return int(kibibytes) / 2**10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == 'darwin' else 2**10)
