"""What one meta-gradient costs in the process that calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from memory import PeakMemory

ProblemT = TypeVar('ProblemT')


def costs(
    make: Callable[[int], ProblemT],
    run: Callable[[ProblemT], torch.Tensor],
    steps: int,
    device: str,
) -> dict[str, object]:
    """Return peak memory, time and the first entries of the meta-gradient.

    Args:
        make: Makes the problem with a number of inner steps.
        run: Returns its meta-gradient.
        steps: The number that is measured.
        device: Where.
    """
    torch.set_num_threads(1)

    def compute(length: int) -> tuple[float, float, torch.Tensor]:
        torch.manual_seed(0)
        # A default device of the whole process would add Python code to every operation.
        with torch.device(device):
            made = make(length)
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
