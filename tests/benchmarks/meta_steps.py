"""Times one meta-step in every way, and writes docs/meta-steps.md, .svg and .json.

First everything that compiles does so with an empty cache, one process for each group of cores.
Then each way runs in turn, in rounds whose order is reversed, with what the compilers have kept.
Last, in float64, what was computed is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cells import Cells
from environments import pythons_of
from meta_steps_report import heading, markdown, plot
from sizes import SIZES
from ways import REFERENCE, WAYS, Way

ROOT = Path(__file__).parents[2]
COMPARED = 'small', 5


def main() -> None:
    """Measure and report."""
    options = _options()
    if options.from_json:
        results = json.loads(options.output.with_suffix('.json').read_text())
    else:
        results = _measure(options)
    page = markdown(results)
    print(page)
    if options.quick or options.only:
        return
    options.output.with_suffix('.json').write_text(json.dumps(results, indent=0) + '\n')
    options.output.write_text(page)
    plot(results, options.output.with_suffix('.svg'))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=2, help='processes for every time')
    parser.add_argument('--limit', type=float, default=300, help='seconds that one may take')
    parser.add_argument('--steps', type=int, nargs='+', default=[1, 5, 20, 100])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument(
        '--quick', action='store_true', help='one round, one step, one thread, written nowhere'
    )
    parser.add_argument('--only', default='', help='ways whose name contains this')
    parser.add_argument('--from-json', action='store_true', help='measure nothing, report again')
    parser.add_argument('--output', type=Path, default=ROOT / 'docs' / 'meta-steps.md')
    parser.add_argument(
        '--environments', type=Path, default=ROOT / '.nox' / 'benchmarks', help='kept for next time'
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.threads = 1, [1], [1]
    return options


def _measure(options: argparse.Namespace) -> dict:
    ways = [way for way in WAYS if options.only in way.name or way is REFERENCE]
    libraries = dict.fromkeys(way.library for way in ways)
    pythons, failures = pythons_of(libraries, options.environments)
    ways = [way for way in ways if way.library in pythons]
    groups = {threads: _groups_of_cores(threads) for threads in options.threads}

    with tempfile.TemporaryDirectory() as folder:
        cells = Cells(
            {way: pythons[way.library] for way in ways},
            Path(folder),
            options.limit,
            0.1 if options.quick else 1.0,
        )
        for threads in options.threads:
            # By the number of steps: what is too slow for one is not tried for more.
            for steps in sorted(options.steps):
                _side_by_side(
                    lambda cores, way, size, steps=steps: cells.run(
                        'compile', way, size, cores, [steps]
                    ),
                    [(way, size) for size in SIZES for way in ways if way.compiled],
                    groups[threads],
                )
        for number in range(options.rounds):
            for threads in options.threads:
                for size in SIZES:
                    for way in ways[:: -1 if number % 2 else 1]:
                        cells.run('time', way, size, groups[threads][0], sorted(options.steps))
        _side_by_side(
            lambda cores, way: cells.run(
                'compare', way, COMPARED[0], cores, [COMPARED[1]], dtype='float64'
            ),
            [(way,) for way in ways],
            _groups_of_cores(1),
        )
    return {
        'heading': heading(),
        'rounds': options.rounds,
        'limit': options.limit,
        'steps': sorted(options.steps),
        'unavailable': failures,
        'records': cells.records,
    }


def _groups_of_cores(size: int) -> list[list[int]]:
    """Return as many disjoint groups of cores as there are."""
    available = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0)
    cores = sorted(available)
    if size > len(cores):
        raise SystemExit(f'--threads {size}: there are {len(cores)} cores')
    return [cores[i : i + size] for i in range(0, len(cores) - size + 1, size)]


def _side_by_side(
    call: Callable[..., None], arguments: Iterable[tuple], groups: list[list[int]]
) -> None:
    """Do ``call(cores, *arguments)`` for each, on one group of cores after the other."""
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for group in groups:
        free.put(group)

    def call_on_free(arguments: tuple[Way | str, ...]) -> None:
        cores = free.get()
        try:
            call(cores, *arguments)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(call_on_free, arguments))


if __name__ == '__main__':
    main()
