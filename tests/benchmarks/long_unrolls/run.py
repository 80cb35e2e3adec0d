"""Measures long unrolls beside the peers; writes docs/long-unrolls-benchmarks.md and a plot.

Every measurement has a process of its own, the peers' in environments of their own. A way whose
memory would not fit is extrapolated from its shorter unrolls and marked so; one that would take
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

from environments import python_of
from extrapolation import extrapolated
from libraries import LIBRARIES
from long_unrolls.page import PLOT, Result, Results, Way, markdown, save_plot
from long_unrolls.problems import PROBLEMS
from long_unrolls.ways import WAYS
from options import parse, parser
from processes import settings


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    options = _options(arguments)
    pythons = {}
    for library in LIBRARIES:
        if any(library.name == name for name, _ in WAYS):
            pythons[library.name] = python_of(library, options.environments)
    found: dict[str, Results] = {
        problem: _measured(problem, pythons, options)
        for problem in PROBLEMS
        if options.only in problem
    }
    page = markdown(found, options.rounds, options.limit, options.device)
    print(page)
    if options.output:
        options.output.write_text(page)
        save_plot(found, options.output.with_name(PLOT))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument('--steps', type=int, nargs='+', default=[2, 16, 64, 100, 1000])
    made.add_argument('--rounds', type=int, default=3, help='of unrolls of less than 64 steps')
    made.add_argument('--limit', type=float, default=300, help='seconds that an unroll may take')
    made.add_argument('--device', default='cpu', help='or cuda')
    options = parse(made, arguments, 'long-unrolls-benchmarks.md')
    if options.quick:
        options.steps, options.rounds = [2, 4], 1
    return options


def _measured(problem: str, pythons: dict[str, Path], options: argparse.Namespace) -> Results:
    results: Results = defaultdict(dict)
    for steps in sorted(options.steps):
        rounds: dict[Way, list[Result]] = defaultdict(list)
        for number in range(options.rounds if steps < 64 else 1):
            # In turn, and back: what the machine does meanwhile befalls all alike.
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                timed = {length: r for length, r in results[way].items() if r.seconds}
                expected = extrapolated({k: r.mebibytes for k, r in timed.items()}, steps)
                if expected > 0.8 * _available(options.device):
                    results[way][steps] = Result(expected, None, None)
                    continue
                if extrapolated({k: r.seconds for k, r in timed.items()}, steps) > options.limit:
                    continue
                print(f'{problem}, {steps} steps: {", ".join(way)}', file=sys.stderr)
                rounds[way].append(_measure(problem, way, steps, pythons, options.device))
        for way, values in rounds.items():
            mebibytes, seconds = (median(column) for column in list(zip(*values))[:2])
            results[way][steps] = Result(mebibytes, seconds, values[0].gradient)
    return results


def _available(device: str) -> float:
    """Return the free memory in MiB."""
    if device == 'cuda':
        import torch

        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path('/proc/meminfo').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith('MemAvailable:'))
    return int(kibibytes) / 1024


def _measure(problem: str, way: Way, steps: int, pythons: dict[str, Path], device: str) -> Result:
    command = [pythons[way[0]], '-m', 'long_unrolls.measure', problem, *way, str(steps), device]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings()).stdout
    found = json.loads(out)
    return Result(found['MiB'], found['seconds'], found['gradient'])
