"""The measurements as Markdown."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from statistics import median, quantiles

from libraries import LIBRARIES, PROJECT, Library

IMPORT = 'import, beyond `import torch`'

# {workload: {library: the times of its rounds in seconds}}
Times = dict[str, dict[str, list[float]]]
# {workload: {library: relative difference of its result from the project's}}
Differences = dict[str, dict[str, float]]


def markdown(times: Times, differences: Differences, failures: dict[str, str], rounds: int) -> str:
    """Return the page."""
    columns = [
        library for library in LIBRARIES if any(library.name in row for row in times.values())
    ]
    peers = [library for library in columns if library.installs is not None]
    notes = [f'- **{library.name}**: {library.note}' for library in columns if library.note]
    notes += [f'- **{name}** could not be measured: {reason}' for name, reason in failures.items()]
    return '\n'.join(
        [
            '# Benchmarks',
            '',
            'Written by `nox -s bench`; the workloads and how each library is called are in '
            '`tests/benchmarks`.',
            '',
            f'- {machine()}, one thread',
            f'- {versions()}',
            f'- Every library ran in {rounds} processes, in turn with the others. Times are '
            'medians over the processes of their medians, ± half the interquartile range; the '
            'ratio is that time to the one of this project. float32.',
            '',
            *table(
                ['', *(library.name for library in columns), 'best peer / this project'],
                [
                    [
                        workload,
                        *(_cell(row, library) for library in columns),
                        '' if workload == IMPORT else _best(row, peers),
                    ]
                    for workload, row in times.items()
                ],
            ),
            '',
            'An Adam step is `update(..., inplace=False)` and its backward pass, `eps_root=1e-8`, '
            'with gradients and moments that require grad. A MAML step is the meta-gradient of an '
            'MLP 1-40-40-1 over 25 sinusoid tasks of 10 shots, through 5 inner steps.',
            '',
            *notes,
            '',
            '## What was computed',
            '',
            "Largest difference of the resulting gradients from this project's at the same "
            '`eps_root`, relative to their largest entry, in float64.',
            '',
            *table(
                ['', *(library.name for library in columns if library != PROJECT)],
                [
                    [
                        workload,
                        *(
                            f'{row[library.name]:.0e}' if library.name in row else 'n/a'
                            for library in columns
                            if library != PROJECT
                        ),
                    ]
                    for workload, row in differences.items()
                ],
            ),
            '',
        ]
    )


def machine() -> str:
    """Return when and where this runs."""
    return f'{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, {platform.system()}'


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


def _cell(row: dict[str, list[float]], library: Library) -> str:
    if library.name not in row:
        return 'n/a'
    text = duration(row[library.name])
    if library == PROJECT:
        return text
    return f'{text} (×{median(row[library.name]) / median(row[PROJECT.name]):.2f})'


def _best(row: dict[str, list[float]], peers: list[Library]) -> str:
    measured = [median(row[peer.name]) for peer in peers if peer.name in row]
    return f'**×{min(measured) / median(row[PROJECT.name]):.2f}**' if measured else 'n/a'


def duration(seconds: list[float]) -> str:
    """Return the median with half the interquartile range."""
    unit, factor = ('ms', 1e3) if median(seconds) >= 1e-3 else ('µs', 1e6)
    value = median(seconds) * factor
    spread = 0.0
    if len(seconds) > 1:
        low, _, high = quantiles(seconds, n=4, method='inclusive')
        spread = (high - low) / 2 * factor
    digits = max(0, 2 - len(str(int(value))) + 1)
    return f'{value:.{digits}f} ± {spread:.{digits}f} {unit}'


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ['---', *['--:'] * (len(header) - 1)], *rows]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def processor() -> str:
    """Return the name of the processor."""
    if sys.platform == 'linux':
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(': ')[2]
    return platform.processor() or platform.machine()
