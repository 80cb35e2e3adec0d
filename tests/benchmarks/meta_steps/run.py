"""Times one meta-step in every way; writes docs/benchmarks/meta-steps.md, .jsonl and plots.

First, everything that compiles does so with an empty cache, one process on each core. Then each way
runs alone, in turn with the others, with the compilers' caches; rounds alternate in order. Last,
the results are compared in float64; the run fails if an exact way has another gradient.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from environments import pythons_of
from libraries import PROJECT
from meta_steps.cells import Cell, Cells
from meta_steps.page import DEEP_PLOT, PLOT, heading, markdown
from meta_steps.plot import draw
from meta_steps.problems import PROBLEMS, about_five
from meta_steps.ways import REFERENCE, WAYS, Way
from options import parse, parser
from processes import groups_of_cores
from report import difference, store, stored

COMPARED = ('small', 'Conv4, SGD', 'Conv4, Adam')
# Both optimizers, both networks.
QUICK = ('small', 'Conv4, SGD')
ROUNDING = 1e-10


class Stage(NamedTuple):
    """Measurements after which the results are written.

    Attributes:
        cells: What to measure, in this order.
        alone: Whether nothing else may run at the same time, as timing requires.
    """

    cells: list[Cell]
    alone: bool


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    options = _options(arguments)
    if options.redraw:
        _report(stored(options.output.with_suffix('.jsonl')), options.output)
    else:
        _measure(options)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__, stores=True)
    made.add_argument('--rounds', type=int, default=2, help='processes per time')
    made.add_argument('--limit', type=float, default=240, help='seconds that a process may take')
    names = ' | '.join(PROBLEMS)
    made.add_argument(
        '--problems', nargs='+', choices=PROBLEMS, metavar='NAME', help=f'default: {names}'
    )
    made.add_argument('--steps', type=int, nargs='+', default=[1, 5, 20, 100])
    made.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    options = parse(made, arguments, 'meta-steps.md')
    if options.quick:
        options.rounds, options.steps, options.threads = 1, [1], [1]
    options.problems = options.problems or (QUICK if options.quick else [*PROBLEMS])
    options.steps.sort()
    options.threads.sort()
    return options


def _measure(options: argparse.Namespace) -> None:
    ways = [way for way in WAYS if options.only in way.name or way is REFERENCE]
    pythons, failures = pythons_of(dict.fromkeys(way.library for way in ways), options.environments)
    ways = [way for way in ways if way.library in pythons]
    stages = [*_stages(ways, options)]
    with tempfile.TemporaryDirectory() as folder:
        cells = Cells(
            {way: pythons[way.library] for way in ways},
            Path(folder),
            options.limit,
            0.1 if options.quick else 0.5,
            sum(len(stage.cells) for stage in stages),
        )
        results = {
            'heading': heading(),
            'rounds': options.rounds,
            'limit': options.limit,
            'steps': options.steps,
            'unavailable': failures,
            'records': cells.records,
        }
        for stage in stages:
            _run(stage, cells)
            if options.output:
                # An interruption of the next stage doesn't lose this one.
                store(results, options.output.with_suffix('.jsonl'))
        results['records'] = _compared(cells.records)
    if options.output:
        store(results, options.output.with_suffix('.jsonl'))
    _report(results, options.output)
    exact = {way.name for way in ways if way.exact}
    wrong = [
        f'{record["way"]}, {record["problem"]}: {record["difference"]:.0e}'
        for record in results['records']
        if record['way'] in exact and not record.get('difference', 0.0) <= ROUNDING
    ]
    if wrong:
        raise SystemExit(f'not the gradient of "{REFERENCE.name}": {"; ".join(wrong)}')


def _report(results: dict, output: Path | None) -> None:
    page = markdown(results)
    print(page)
    if output:
        output.write_text(page)
        draw(results, output.with_name(PLOT), output.with_name(DEEP_PLOT))


def _compared(records: list[dict]) -> list[dict]:
    """Return the records, with differences from the reference in place of fingerprints."""
    found = [record for record in records if 'fingerprints' in record]
    differences = [
        {
            **{key: record[key] for key in ('task', 'way', 'problem', 'threads', 'steps')},
            'difference': difference(record, reference),
        }
        for reference in found
        if reference['way'] == REFERENCE.name
        for record in found
        if record is not reference and record['problem'] == reference['problem']
    ]
    return [record for record in records if record['task'] != 'compare'] + differences


def _stages(ways: list[Way], options: argparse.Namespace) -> Iterable[Stage]:
    least = options.threads[0]
    # The problem, the number of threads, the way.
    places = [
        (name, threads, way)
        for threads in options.threads
        for name in options.problems
        if threads in PROBLEMS[name].threads(options.threads)
        for way in ways
        if not (options.quick and way.compiled and PROBLEMS[name].is_deep)
    ]
    # In ascending order, because a way that is too slow for few steps is not tried for more.
    for k in options.steps:
        compiling = [
            Cell('compile', way, name, threads, group)
            for name, threads, way in places
            if way.compiled
            # XLA's code depends on the cores of its process, not on its threads. With more than
            # one core it compiles when it is timed, which is quick.
            if threads == 1 or way.library is PROJECT
            for group in way.groups(PROBLEMS[name].lengths(options.steps))
            if group[0] == k
        ]
        yield Stage(compiling, alone=False)
    for number in range(options.rounds):
        yield Stage(
            [
                Cell('time', way, name, threads, steps, memory=threads == least and not number)
                for name, threads, way in places[:: -1 if number % 2 else 1]
                for steps in way.groups(PROBLEMS[name].lengths(options.steps))
            ],
            alone=True,
        )
    yield Stage(
        [
            Cell('compare', way, name, 1, [about_five(options.steps)], dtype='float64')
            for name, threads, way in places
            if name in COMPARED and threads == least
        ],
        alone=False,
    )


def _run(stage: Stage, cells: Cells) -> None:
    """Measure all cells of a stage, one after the other or one on each core."""
    if stage.alone:
        for cell in stage.cells:
            cells.run(cell, groups_of_cores(cell.threads)[0])
        return
    free: SimpleQueue[list[int]] = SimpleQueue()
    groups = groups_of_cores(1)
    for group in groups:
        free.put(group)

    def run_on_free(cell: Cell) -> None:
        cores = free.get()
        try:
            cells.run(cell, cores)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(run_on_free, stage.cells))
