"""One measurement in a process of its own: ``measure.py PROBLEM LIBRARY WAY STEPS``, JSON out."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import torch
from problems import PROBLEMS
from ways import WAYS

MIB = 2**20


class PeakMemory:
    """The most memory that this process has held since the start of the block.

    On a GPU what torch has allocated; else what the process has resident, beyond what it had.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.mebibytes = 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self._device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            # Linux: the high-water mark falls to what is resident now.
            Path('/proc/self/clear_refs').write_text('5')
            self._before = _status('VmRSS')
        return self

    def __exit__(self, *_: object) -> None:
        if self._device == 'cuda':
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = _status('VmHWM')
        self.mebibytes = (peak - self._before) / MIB


def _status(name: str) -> int:
    """Return a line of this process's status, in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f'{name}:'))
    return int(kibibytes) * 1024


def measure(problem: str, library: str, way: str, steps: int, device: str) -> dict[str, object]:
    """Return peak memory, time and some of the meta-gradient."""
    torch.set_num_threads(1)
    torch.set_default_device(device)
    run = WAYS[library, way]

    def compute(length: int) -> tuple[float, float, torch.Tensor]:
        torch.manual_seed(0)
        made = PROBLEMS[problem](length)
        with PeakMemory(device) as memory:
            begin = time.perf_counter()
            gradient = run(made)
            gradient.sum().item()  # waits for the device
            seconds = time.perf_counter() - begin
        return memory.mebibytes, seconds, gradient

    compute(1)  # whatever is loaded or allocated once
    mebibytes, seconds, gradient = compute(steps)
    return {'MiB': mebibytes, 'seconds': seconds, 'gradient': gradient.flatten()[:64].tolist()}


if __name__ == '__main__':
    problem, library, way, steps, device = sys.argv[1:]
    print(json.dumps(measure(problem, library, way, int(steps), device)))
