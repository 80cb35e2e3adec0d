"""Times the project beside its peers, in turn, and writes docs/benchmarks/steps.md.

Each library runs the same problems in its own environment. A round starts one process for each
library. The order is reversed from round to round, so that other load on the machine affects all
libraries alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from environments import pythons_of
from libraries import LIBRARIES, PROJECT, Library
from options import parse, parser
from processes import settings
from report import difference
from steps.page import IMPORT, Differences, Times, markdown
from steps.problems import PROBLEMS


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    options = _options(arguments)
    pythons, failures = pythons_of(LIBRARIES, options.environments)
    times: Times = defaultdict(lambda: defaultdict(list))
    fingerprints: dict[str, dict[str, dict]] = {name: {} for name in PROBLEMS}
    for number in range(options.rounds):
        for library in list(pythons)[:: 1 if number % 2 else -1]:
            print(f'round {number + 1} of {options.rounds}: {library.name}', file=sys.stderr)
            for record in _benchmark(library, pythons[library], options):
                problem = record['params']['name']
                times[problem][library.name].append(record['stats']['median'])
                fingerprints[problem][library.name] = record['extra_info']
            if library.imports and options.only in IMPORT:
                times[IMPORT][library.name].append(_import_time(library, pythons[library]))

    times = {name: times[name] for name in (*PROBLEMS, IMPORT) if name in times}
    page = markdown(times, _differences(fingerprints), failures, options.rounds)
    print(page)
    if options.output:
        options.output.write_text(page)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument('--rounds', type=int, default=9, help='processes per library')
    options = parse(made, arguments, 'steps.md')
    if options.quick:
        options.rounds = 1
    return options


def _benchmark(library: Library, python: Path, options: argparse.Namespace) -> list[dict]:
    """Time the problems in a process of ``library``; return pytest-benchmark's records."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'result.json'
        subprocess.run(
            [
                *(python, '-m', 'steps.measure', library.name, options.only),
                *('--quiet', '-p', 'no:cacheprovider', '--no-header', '--tb=short'),
                *('--benchmark-json', result, '--benchmark-quiet', '--benchmark-warmup=on'),
                f'--benchmark-max-time={0.1 if options.quick else 1.0}',
                f'--benchmark-min-rounds={2 if options.quick else 5}',
            ],
            check=True,
            **settings(),
            stdout=sys.stderr,
        )
        # No file means that the library supports none of them.
        return json.loads(result.read_text())['benchmarks'] if result.exists() else []


def _import_time(library: Library, python: Path) -> float:
    """Return what importing ``library`` takes in a fresh process that has imported torch."""
    script = (
        'import time, torch; start = time.perf_counter(); '
        f'import {library.imports}; print(time.perf_counter() - start)'
    )
    return float(subprocess.run([python, '-c', script], check=True, capture_output=True).stdout)


def _differences(fingerprints: dict[str, dict[str, dict]]) -> Differences:
    """Compare each result with the project's."""
    return {
        problem: {
            name: difference(info, row[PROJECT.name])
            for name, info in row.items()
            if name != PROJECT.name
        }
        for problem, row in fingerprints.items()
        if row
    }
