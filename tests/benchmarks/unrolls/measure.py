"""One measurement in its own process: ``PROBLEM LIBRARY WAY STEPS DEVICE``; prints JSON."""

from __future__ import annotations

import json
import sys
import time

import torch

from memory import PeakMemory
from unrolls.problems import PROBLEMS
from unrolls.ways import WAYS


def measure(problem: str, library: str, way: str, steps: int, device: str) -> dict[str, object]:
    """Return peak memory, time and the first entries of the meta-gradient."""
    torch.set_num_threads(1)
    run = WAYS[library, way]

    def compute(length: int) -> tuple[float, float, torch.Tensor]:
        torch.manual_seed(0)
        # A default device of the whole process would add Python code to every operation.
        with torch.device(device):
            made = PROBLEMS[problem](length)
        with PeakMemory(device) as memory:
            begin = time.perf_counter()
            gradient = run(made)
            gradient.sum().item()  # waits for the device
            seconds = time.perf_counter() - begin
        return memory.mebibytes, seconds, gradient

    compute(1)  # loads and allocates what lasts
    mebibytes, seconds, gradient = compute(steps)
    return {
        'mebibytes': mebibytes,
        'seconds': seconds,
        'gradient': gradient.flatten()[:64].tolist(),
    }


if __name__ == '__main__':
    problem, library, way, steps, device = sys.argv[1:]
    print(json.dumps(measure(problem, library, way, int(steps), device)))
