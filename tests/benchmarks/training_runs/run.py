"""Measures metagradients of whole training runs; writes training-runs.md, .png and .jsonl.

Every measurement runs in its own process. If the memory of an unroll would not fit, it is
extrapolated from shorter unrolls and marked. An unroll that would take too long is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memory import MIB
from options import parse, parser
from processes import settings
from report import store, stored
from rounds import Measured, measured, records
from training_runs.page import PLOT, draw, heading, markdown
from training_runs.ways import REFERENCE, ways_on


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


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__, stores=True)
    made.add_argument('--steps', type=int, nargs='+', default=[16, 64, 256, 1000])
    made.add_argument('--rounds', type=int, default=2, help='processes, below 64 steps')
    made.add_argument('--limit', type=float, default=100, help='seconds that an unroll may take')
    made.add_argument('--device', default='cpu', help='or cuda')
    options = parse(made, arguments, 'training-runs.md')
    if options.quick:
        options.steps, options.rounds = [2, 4], 1
    return options


def _results(options: argparse.Namespace) -> dict[str, Any]:
    def measure(way: str, steps: int) -> Measured:
        return _measured(way, steps, options.device, options.environments)

    # On the disk of the project: the folder for temporary files may be in memory.
    options.environments.mkdir(parents=True, exist_ok=True)
    found = measured(
        [way for way in ways_on(options.device) if options.only in way],
        options.steps,
        measure,
        rounds=options.rounds,
        limit=options.limit,
        device=options.device,
    )
    return {
        'heading': heading(options.device),
        'rounds': options.rounds,
        'limit': options.limit,
        'records': records(found, lambda _: REFERENCE, lambda way: {'way': way}),
    }


def _measured(way: str, steps: int, device: str, place: Path) -> Measured:
    """Measure one way in a process, and look at its files meanwhile."""
    with TemporaryDirectory(dir=place, prefix='training-runs-') as folder:
        command = [sys.executable, '-m', 'training_runs.measure', way, str(steps), device, folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **settings())
        fullest = 0
        try:
            while process.poll() is None:
                begin = time.perf_counter()
                fullest = max(fullest, _bytes_in(folder))
                # Looking takes no more than a twentieth of the time of a core.
                time.sleep(max(0.005, 20 * (time.perf_counter() - begin)))
        finally:
            process.kill()
            output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f'{way}, {steps} steps: failed with {process.returncode}')
    return Measured(**json.loads(output), disk=fullest / MIB)


def _bytes_in(folder: str | Path) -> int:
    """Return the size of all files below ``folder``, whose files come and go."""
    total = 0
    try:
        for entry in os.scandir(folder):
            if entry.is_dir():
                total += _bytes_in(entry.path)
            else:
                total += entry.stat().st_size
    except FileNotFoundError:
        pass  # gone since it was listed
    return total
