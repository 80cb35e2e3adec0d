"""Measures long unrolls beside the peers; writes docs/benchmarks/unrolls.md, .png and .jsonl.

Every measurement runs in its own process, every peer in its own environment. If the memory of an
unroll would not fit, it is extrapolated from shorter unrolls and marked. An unroll that would take
too long is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environments import python_of
from libraries import LIBRARIES
from options import parse, parser
from processes import settings
from report import store, stored
from rounds import Measured, measured, records
from unrolls.page import PLOT, Way, draw, heading, markdown
from unrolls.problems import PROBLEMS
from unrolls.ways import WAYS, reference


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    options = _options(arguments)
    data = options.output and options.output.with_suffix('.jsonl')
    results = stored(data) if options.redraw else _results(options)
    page = markdown(results)
    print(page)
    if options.output:
        store(results, data)
        options.output.write_text(page)
        draw(results, options.output.with_name(PLOT))


def _results(options: argparse.Namespace) -> dict[str, Any]:
    pythons = {}
    for library in LIBRARIES:
        if any(library.name == name for name, _ in WAYS):
            pythons[library.name] = python_of(library, options.environments)
    found = []
    for problem in PROBLEMS:
        if options.only in problem:
            found += _records(problem, pythons, options)
    return {
        'heading': heading(options.device),
        'rounds': options.rounds,
        'limit': options.limit,
        'records': found,
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__, stores=True)
    made.add_argument('--steps', type=int, nargs='+', default=[2, 16, 64, 100, 1000])
    made.add_argument('--rounds', type=int, default=3, help='processes, below 64 steps')
    made.add_argument('--limit', type=float, default=300, help='seconds that an unroll may take')
    made.add_argument('--device', default='cpu', help='or cuda')
    options = parse(made, arguments, 'unrolls.md')
    if options.quick:
        options.steps, options.rounds = [2, 4], 1
    return options


def _records(
    problem: str, pythons: dict[str, Path], options: argparse.Namespace
) -> list[dict[str, Any]]:
    def measure(way: Way, steps: int) -> Measured:
        command = [pythons[way[0]], '-m', 'unrolls.measure', problem, *way, str(steps)]
        command.append(options.device)
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings()).stdout
        return Measured(**json.loads(out))

    found = measured(
        list(WAYS),
        options.steps,
        measure,
        rounds=options.rounds,
        limit=options.limit,
        device=options.device,
        title=f'{problem}, ',
    )
    return records(
        found,
        lambda way: reference(way[1]),
        lambda way: {'problem': problem, 'library': way[0], 'way': way[1]},
    )
