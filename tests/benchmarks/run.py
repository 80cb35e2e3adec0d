"""Times the project beside its peers, in turn, and writes docs/benchmarks.md.

Each library runs the same workloads in an environment of its own. A round starts one process for
each of them, in an order that is reversed from round to round, so that what the machine does
meanwhile befalls all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from environments import pythons_of
from libraries import LIBRARIES, PROJECT, Library
from report import IMPORT, Differences, Times, difference, markdown
from workloads import WORKLOADS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


def main() -> None:
    """Measure and report."""
    options = _options()
    pythons, failures = pythons_of(LIBRARIES, options.environments)
    times: Times = defaultdict(lambda: defaultdict(list))
    fingerprints: dict[str, dict[str, dict]] = {name: {} for name in WORKLOADS}
    for number in range(options.rounds):
        for library in list(pythons)[:: 1 if number % 2 else -1]:
            print(f'round {number + 1} of {options.rounds}: {library.name}', file=sys.stderr)
            for record in _benchmark(library, pythons[library], options):
                workload = record['params']['name']
                times[workload][library.name].append(record['stats']['median'])
                fingerprints[workload][library.name] = record['extra_info']
            if library.imports and options.only in IMPORT:
                times[IMPORT][library.name].append(_import_time(library, pythons[library]))

    times = {name: times[name] for name in (*WORKLOADS, IMPORT) if name in times}
    page = markdown(times, _differences(fingerprints), failures, options.rounds)
    print(page)
    if not (options.quick or options.only):
        options.output.write_text(page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=9, help='processes for every library')
    parser.add_argument('--quick', action='store_true', help='one short round, written nowhere')
    parser.add_argument('--only', default='', help='workloads whose name contains this')
    parser.add_argument('--output', type=Path, default=ROOT / 'docs' / 'benchmarks.md')
    parser.add_argument(
        '--environments', type=Path, default=ROOT / '.nox' / 'benchmarks', help='kept for next time'
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def _benchmark(library: Library, python: Path, options: argparse.Namespace) -> list[dict]:
    """Time the workloads in a process of ``library``; return pytest-benchmark's records."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'result.json'
        subprocess.run(
            [
                *(python, '-m', 'pytest', HERE / 'workloads.py', '-c', HERE / 'pytest.ini'),
                *('--quiet', '-p', 'no:cacheprovider', '--no-header', '--tb=short'),
                *('--library', library.name, '--only', options.only),
                *('--benchmark-json', result, '--benchmark-quiet', '--benchmark-warmup=on'),
                f'--benchmark-max-time={0.1 if options.quick else 1.0}',
                f'--benchmark-min-rounds={2 if options.quick else 5}',
            ],
            check=True,
            cwd=HERE,
            env={**os.environ, **ONE_THREAD, 'PYTHONDONTWRITEBYTECODE': '1'},
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
        workload: {
            name: difference(info, row[PROJECT.name])
            for name, info in row.items()
            if name != PROJECT.name
        }
        for workload, row in fingerprints.items()
        if row
    }


if __name__ == '__main__':
    main()
