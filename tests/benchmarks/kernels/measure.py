"""All measurements with one number of threads; runs in its own process and prints JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from kernels.problems import (
    LARGEST,
    OPTIMIZERS,
    SHORT,
    SIZES,
    UNROLLED,
    Run,
    copying,
    differentiable,
    images,
    in_place,
    normal,
    torch_best,
)
from memory import PeakMemory

FORMATS = {'contiguous': torch.contiguous_format, 'channels last': torch.channels_last}


def main() -> None:
    """Print one record."""
    threads, device, quick = int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'quick'
    torch.set_num_threads(threads)
    seconds = 0.05 if quick else 1.5
    optimizers = ['adam'] if quick else list(OPTIMIZERS)

    def over_steps(steps: int) -> Any:
        return {
            size: {
                name: _differentiated(name, size, device, seconds, steps)
                for name in (*optimizers, *SHORT)
            }
            for size in SIZES
        }

    record = {'threads': threads, 'differentiated': over_steps(1)}
    if threads == 1:
        record |= {
            'unrolled': over_steps(UNROLLED),
            'in place': {name: _in_place(name, device, seconds) for name in optimizers},
            'formats': {
                kind: _medians({x: images(kind, f) for x, f in FORMATS.items()}, seconds, device)
                for kind in ('in place', 'differentiable')
            },
            'bandwidth': _bandwidth(seconds, device),
            'held': _held(device),
        }
    print(json.dumps(record))


def _in_place(name: str, device: str, seconds: float) -> dict[str, dict[str, float]]:
    """Return the times of a plain optimizer's step, by size."""
    best = torch_best(name, device)
    kinds = ('composite', 'accelerated', *([best] if best else []))
    return {
        size: _medians(
            {kind: in_place(kind, name, size, device) for kind in kinds}, seconds, device
        )
        for size in SIZES
    }


def _differentiated(
    name: str, size: str, device: str, seconds: float, steps: int
) -> dict[str, float]:
    """Return the time of one step and its derivative."""
    kinds = ('composite', 'accelerated')
    runs = {
        kind: differentiable(name, size, device, accelerated=kind == 'accelerated', steps=steps)[1]
        for kind in kinds
    }
    return {kind: time / steps for kind, time in _medians(runs, seconds, device).items()}


def _medians(runs: Mapping[str, Run], seconds: float, device: str) -> dict[str, float]:
    """Time the runs in turn, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    while sum(map(sum, times.values())) < seconds or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            times[name].append(_time(run, device))
    return {name: median(values) for name, values in times.items()}


def _time(run: Run, device: str) -> float:
    _wait(device)
    begin = time.perf_counter()
    result = run()
    _wait(device)
    seconds = time.perf_counter() - begin
    del result  # not timed
    return seconds


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def _bandwidth(seconds: float, device: str) -> dict[str, float]:
    """Return the bytes per second of a copy and of whole Adam steps."""
    copy, copied = copying(device)
    step, both = differentiable('adam', LARGEST, device, accelerated=True)
    times = _medians({'copy': copy, 'forward': step, 'both': both}, seconds, device)
    tensors = sum(x.nbytes for x in normal(LARGEST, 0, device))
    return {
        'copy': copied / times['copy'],
        # Gradient and two moments in; update and two moments out.
        'forward': 6 * tensors / times['forward'],
        # Three cotangents and the three inputs in; the cotangents of the inputs out.
        'backward': 9 * tensors / (times['both'] - times['forward']),
    }


def _held(device: str) -> dict[str, float]:
    """Return what a differentiable step keeps alive, in multiples of the parameters."""
    import torchopt

    held = {}
    tensors = sum(x.nbytes for x in normal(LARGEST, 0, device))
    for kind in ('composite', 'accelerated'):
        optimizer = torchopt.adam(0.01, eps_root=1e-8, use_accelerated_op=kind == 'accelerated')

        def unroll(
            steps: int, optimizer: torchopt.GradientTransformation = optimizer
        ) -> list[object]:
            kept: list[object] = []
            params = normal(LARGEST, 1, device)
            state = optimizer.init(params)
            scale = torch.ones((), requires_grad=True, device=device)
            for _ in range(steps):
                # The derivative of this gradient keeps no tensor.
                grads = [scale.expand_as(x).contiguous() for x in params]
                updates, state = optimizer.update(grads, state, inplace=False)
                # Keep the graph of the step only: a sum keeps no tensor.
                kept.append(torch.stack([x.sum() for x in updates]).sum())
            return [kept, state]

        unroll(2)
        peaks = {}
        for steps in (2, 8):
            with PeakMemory(device) as memory:
                kept = unroll(steps)
            del kept
            peaks[steps] = memory.mebibytes
        held[kind] = (peaks[8] - peaks[2]) / 6 * 2**20 / tensors
    return held


if __name__ == '__main__':
    main()
