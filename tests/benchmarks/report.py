"""What all benchmarks use to report: records, tables, and where they were measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any


def machine() -> str:
    """Return the date and the machine."""
    return f'{datetime.date.today()}, {_processor()}, {os.cpu_count()} cores, {platform.system()}'


def versions() -> str:
    """Return the versions of Python, torch and the project."""
    installed = [
        f'{name} {version(name)}'
        for name in sorted({metadata.name for metadata in distributions()})
        if name == 'torch' or name.startswith('torchopt-')
    ]
    return ', '.join([f'Python {platform.python_version()}', *installed])


def difference(theirs: dict, ours: dict) -> float:
    """Return how far a result is from the project's at the same ``eps_root``."""
    eps_root = str(theirs['eps_root'])
    return relative(theirs['fingerprints'][eps_root], ours['fingerprints'][eps_root])


def relative(values: Sequence[float], reference: Sequence[float]) -> float:
    """Return the largest difference, relative to the largest entry of the reference."""
    return max(abs(a - b) for a, b in zip(values, reference)) / max(map(abs, reference))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ['---', *['--:'] * (len(header) - 1)], *rows]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def store(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON Lines: first all but ``'records'``, then one record a line."""
    about = {key: value for key, value in results.items() if key != 'records'}
    lines = map(json.dumps, [about, *results['records']])
    path.write_text('\n'.join([*lines, '']))


def stored(path: Path) -> dict[str, Any]:
    """Read what ``store`` has written."""
    about, *records = map(json.loads, path.read_text().splitlines())
    return {**about, 'records': records}


def _processor() -> str:
    if sys.platform == 'linux':
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(': ')[2]
    return platform.processor() or platform.machine()
