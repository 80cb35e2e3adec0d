"""One measurement in a process of its own: ``PROBLEM LIBRARY WAY STEPS DEVICE``, JSON out."""

from __future__ import annotations

import json
import sys
import time

import torch

from long_unrolls.problems import PROBLEMS
from long_unrolls.ways import WAYS
from memory import PeakMemory


def measure(problem: str, library: str, way: str, steps: int, device: str) -> dict[str, object]:
    """Return peak memory, time and some of the meta-gradient."""
    torch.set_num_threads(1)
    run = WAYS[library, way]

    def compute(length: int) -> tuple[float, float, torch.Tensor]:
        torch.manual_seed(0)
        # Not as the default of the whole process, which would add Python to every operation.
        with torch.device(device):
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
