"""The times of steps as Markdown."""

from __future__ import annotations

from statistics import median, quantiles

from libraries import LIBRARIES, PROJECT, Library
from report import machine, table, versions

IMPORT = 'import, beyond `import torch`'

# {problem: {library: the times of its rounds in seconds}}
Times = dict[str, dict[str, list[float]]]
# {problem: {library: relative difference of its result from the project's}}
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
            '# Steps beside other libraries',
            '',
            'Written by `nox -s bench -- steps`. The problems are in `tests/benchmarks/steps`, the '
            'calls of each library in `tests/benchmarks/adapters`.',
            '',
            f'- {machine()}, one thread',
            f'- {versions()}',
            f'- Every library ran in {rounds} processes, in turn with the others. Each process '
            'reports its median; a time is the median over the processes, ± half the interquartile '
            'range. The ratio compares it with the time of this project. float32.',
            '',
            *table(
                ['', *(library.name for library in columns), 'best peer / this project'],
                [
                    [
                        problem,
                        *(_cell(row, library) for library in columns),
                        '' if problem == IMPORT else _best(row, peers),
                    ]
                    for problem, row in times.items()
                ],
            ),
            '',
            'An Adam step is `update(..., inplace=False)` and its backward pass, with '
            '`eps_root=1e-8`; gradients and moments require grad. A MAML step is the meta-gradient '
            'of an MLP 1-40-40-1 over 25 sinusoid tasks of 10 shots, through 5 inner steps.',
            '',
            *notes,
            '',
            '## What was computed',
            '',
            "The largest difference between the resulting gradients and this project's gradients "
            'at the same `eps_root`, relative to their largest entry, in float64.',
            '',
            *table(
                ['', *(library.name for library in columns if library != PROJECT)],
                [
                    [
                        problem,
                        *(
                            f'{row[library.name]:.0e}' if library.name in row else 'n/a'
                            for library in columns
                            if library != PROJECT
                        ),
                    ]
                    for problem, row in differences.items()
                ],
            ),
            '',
        ]
    )


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
    """Return the median and half the interquartile range as text."""
    unit, factor = ('ms', 1e3) if median(seconds) >= 1e-3 else ('µs', 1e6)
    value = median(seconds) * factor
    spread = 0.0
    if len(seconds) > 1:
        low, _, high = quantiles(seconds, n=4, method='inclusive')
        spread = (high - low) / 2 * factor
    digits = max(0, 2 - len(str(int(value))) + 1)
    return f'{value:.{digits}f} ± {spread:.{digits}f} {unit}'
