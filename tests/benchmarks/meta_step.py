"""Measures one way of computing a meta-step, in its environment; prints a record for every K.

The process is bound to the cores that it may use, so that no library has more than another.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sizes import SIZES
from ways import WAYS


def main() -> None:
    """Print one line of JSON for every number of steps."""
    options = _options()
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, options.cores)
    # Only now: libraries count the cores that they may use when they are imported.
    import torch

    from adapters import fingerprint, load
    from sinusoids import problem

    torch.set_num_threads(len(options.cores))
    (way,) = (way for way in WAYS if way.name == options.way)
    if way.options.get('use_accelerated_op'):
        import torchopt

        if not torchopt.accelerated_op_available('cpu'):
            return
    adapter = load(way.adapter, way.options)
    dtype = getattr(torch, options.dtype)

    def make(eps_root: float, steps: int) -> Callable[[], list[torch.Tensor]]:
        return adapter.meta_step(
            *problem(SIZES[options.size], dtype), 'adam', eps_root, steps, batched=way.batched
        )

    for steps in options.steps:
        record: dict = {'steps': steps}
        try:
            if options.task == 'compare':
                record['eps_root'] = adapter.eps_roots[0]
                record['fingerprints'] = {
                    eps_root: fingerprint(make(eps_root, steps)()) for eps_root in adapter.eps_roots
                }
            else:
                run = make(adapter.eps_roots[0], steps)
                record['first'] = _time(run)
                if options.task == 'time':
                    record['median'] = median(_times(run, options.seconds))
                    record['peak'] = _peak_memory(run)
        except NotImplementedError:
            return
        print(json.dumps(record), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', choices=('compile', 'time', 'compare'))
    parser.add_argument('--way', required=True)
    parser.add_argument('--size', required=True)
    parser.add_argument('--steps', type=int, nargs='+', required=True)
    parser.add_argument('--cores', type=int, nargs='+', required=True)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--seconds', type=float, default=1.0, help='how long to repeat a step')
    return parser.parse_args()


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _times(run: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    while not times or sum(times) < seconds:
        times.append(_time(run))
    return times


def _peak_memory(run: Callable[[], object]) -> int | None:
    """Return by how many bytes the resident memory rises in ``run``; None if unknown here."""
    if sys.platform != 'linux':
        return None
    # Free memory that the allocator holds would hide what is taken from it.
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the peak so far becomes what is used now
    except OSError:
        return None
    before = _status('VmRSS')
    run()
    return _status('VmHWM') - before


def _status(name: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == '__main__':
    main()
