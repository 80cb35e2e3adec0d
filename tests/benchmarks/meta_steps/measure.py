"""Measures one way of computing a meta-step in its environment; prints a record for every K.

The process is bound to its cores, so that every library has the same number.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from statistics import median

from meta_steps.ways import WAYS

CALLS = 3  # the least number of timed calls, however long they take


def main() -> None:
    """Print one line of JSON for every number of steps."""
    options = _options()
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, options.cores)
    # Imported after the process is bound: libraries count their cores on import.
    import torch

    from adapters import fingerprint, load
    from meta_steps.problems import PROBLEMS

    torch.set_num_threads(options.threads)
    (way,) = (way for way in WAYS if way.name == options.way)
    if way.options.get('use_accelerated_op'):
        import torchopt

        if not torchopt.accelerated_op_available('cpu'):
            return
    adapter = load(way.adapter, way.options)
    problem = PROBLEMS[options.problem]
    net, tasks = problem.make(getattr(torch, options.dtype))

    def make(eps_root: float, steps: int) -> Callable[[], list[torch.Tensor]]:
        return adapter.meta_step(net, tasks, problem.rule, eps_root, steps, batched=way.batched)

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
                if options.memory:
                    record['peak'] = _peak_memory(run)
        except NotImplementedError:
            return
        print(json.dumps(record), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'task',
        choices=('compile', 'time', 'compare'),
        help='time the first call; time the first and later calls; record the result',
    )
    parser.add_argument('--way', required=True)
    parser.add_argument('--problem', required=True)
    parser.add_argument('--steps', type=int, nargs='+', required=True)
    parser.add_argument('--cores', type=int, nargs='+', required=True)
    parser.add_argument('--threads', type=int, required=True)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--seconds', type=float, default=1.0, help='time to repeat a step')
    parser.add_argument('--memory', action='store_true', help='measure peak memory too')
    return parser.parse_args()


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _times(run: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    while len(times) < CALLS or sum(times) < seconds:
        times.append(_time(run))
    return times


def _peak_memory(run: Callable[[], object]) -> float | None:
    """Return the MiB by which memory rises in ``run``; None if that is unknown here."""
    from memory import PeakMemory

    with PeakMemory() as memory:
        run()
    return None if math.isnan(memory.mebibytes) else memory.mebibytes


if __name__ == '__main__':
    main()
