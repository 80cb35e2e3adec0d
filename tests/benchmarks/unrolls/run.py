"""Measures long unrolls beside the peers; writes docs/benchmarks/unrolls.md, .png and .jsonl.

Every measurement runs in its own process, every peer in its own environment. If the memory of an
unroll would not fit, it is extrapolated from shorter unrolls and marked. An unroll that would take
too long is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from environments import python_of
from libraries import LIBRARIES
from options import parse, parser
from processes import extrapolated, settings
from report import relative, store, stored
from unrolls.page import PLOT, Way, draw, heading, markdown
from unrolls.problems import PROBLEMS
from unrolls.ways import WAYS, reference


class Measured(NamedTuple):
    """One measurement; if ``mebibytes`` is extrapolated, the other fields are None."""

    mebibytes: float
    seconds: float | None = None
    gradient: list[float] | None = None


# {way: {number of steps: measurement}}
Found = dict[Way, dict[int, Measured]]


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
    records = []
    for problem in PROBLEMS:
        if options.only in problem:
            records += _records(problem, _measured(problem, pythons, options))
    return {
        'heading': heading(options.device),
        'rounds': options.rounds,
        'limit': options.limit,
        'records': records,
    }


def _records(problem: str, found: Found) -> list[dict[str, Any]]:
    """Return one record for each measurement, with the difference in place of the gradient."""
    records = []
    for (library, way), row in found.items():
        for steps, result in row.items():
            theirs = found[reference(way)].get(steps, Measured(0.0)).gradient
            both = result.gradient is not None and theirs is not None
            records.append(
                {
                    **{'problem': problem, 'library': library, 'way': way, 'steps': steps},
                    **{'mebibytes': result.mebibytes, 'seconds': result.seconds},
                    'difference': relative(result.gradient, theirs) if both else None,
                }
            )
    return records


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


def _measured(problem: str, pythons: dict[str, Path], options: argparse.Namespace) -> Found:
    found: Found = defaultdict(dict)
    for steps in sorted(options.steps):
        rounds: dict[Way, list[Measured]] = defaultdict(list)
        for number in range(options.rounds if steps < 64 else 1):
            # In alternating order, so that other load on the machine affects all ways alike.
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                timed = {length: r for length, r in found[way].items() if r.seconds}
                expected = extrapolated({k: r.mebibytes for k, r in timed.items()}, steps)
                if expected > 0.8 * _available(options.device):
                    found[way][steps] = Measured(expected)
                    continue
                if extrapolated({k: r.seconds for k, r in timed.items()}, steps) > options.limit:
                    continue
                print(f'{problem}, {steps} steps: {", ".join(way)}', file=sys.stderr)
                rounds[way].append(_measure(problem, way, steps, pythons, options.device))
        for way, values in rounds.items():
            mebibytes, seconds = (median(column) for column in list(zip(*values))[:2])
            found[way][steps] = Measured(mebibytes, seconds, values[0].gradient)
    return found


def _available(device: str) -> float:
    """Return the free memory in MiB."""
    if device == 'cuda':
        import torch

        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path('/proc/meminfo').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith('MemAvailable:'))
    return int(kibibytes) / 1024


def _measure(problem: str, way: Way, steps: int, pythons: dict[str, Path], device: str) -> Measured:
    command = [pythons[way[0]], '-m', 'unrolls.measure', problem, *way, str(steps), device]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings()).stdout
    return Measured(**json.loads(out))
