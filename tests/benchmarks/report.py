"""What the pages of all benchmarks have in common."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import distributions, version
from pathlib import Path


def machine() -> str:
    """Return when and where this runs."""
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
    pair = theirs['fingerprints'][eps_root], ours['fingerprints'][eps_root]
    return max(map(abs, map(float.__sub__, *pair))) / max(map(abs, pair[1]))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ['---', *['--:'] * (len(header) - 1)], *rows]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def _processor() -> str:
    if sys.platform == 'linux':
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(': ')[2]
    return platform.processor() or platform.machine()
