"""Memory, disk and times of metagradients of training runs as Markdown and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plots import COLORS, Line, save_plot
from report import machine, table, versions
from rounds import Result, device_name, last_difference
from training_runs.ways import HAND_WRITTEN, REFERENCE, transformer

PLOT = 'training-runs.png'
# The ways in the plot, and their labels.
PLOTTED = {
    'Stored()': 'Stored()',
    REFERENCE: 'Recomputed()',
    'Recomputed(storage=Disk(folder))': 'Recomputed(), Disk',
    'Snapshots()': 'Snapshots()',
    'Snapshots(storage=Disk(folder))': 'Snapshots(), Disk',
    HAND_WRITTEN: 'a hand-written loop',
}

Row = dict[int, Result]


def heading(device: str) -> list[str]:
    """Return the date, the machine and the versions."""
    return [f'{machine()}, {device_name(device)}', f'{versions()}, float32']


def markdown(stored: dict[str, Any]) -> str:
    """Return the page."""
    rows = _rows(stored)
    lengths = sorted({length for row in rows.values() for length in row})
    header = ['', *(f'{length:,} steps' for length in lengths), 'difference']
    lines = [
        '# Metagradients of whole training runs: memory, disk and time',
        '',
        'Written by `nox -s bench -- training-runs`; the code is in '
        '`tests/benchmarks/training_runs`, the data in [training-runs.jsonl](training-runs.jsonl). '
        'Which mode to take: [Metagradients of a whole training run](../guides/training-runs.md)',
        '',
        *(f'- {line}' for line in stored['heading']),
        f'- A transformer of {transformer.__doc__} AdamW, `eps_root=1e-8`. The metagradient of a '
        'held-out loss by the weights of all examples, through the whole run.',
        '- Every figure comes from its own process: peak memory beyond what the process held '
        'before, after the + what was in files when they were largest, and time. Figures below 64 '
        f'steps are medians; number of processes: {stored["rounds"]}. *Italic*: would not fit, '
        f'extrapolated. Empty: would take over {stored["limit"]:.0f} s.',
        f'- "Difference" compares the metagradient with the one of `{REFERENCE}`, relative to its '
        'largest entry, in the longest run. Ways that do the same operations in the same order '
        'agree exactly. The hand-written loop adds up in another order, and a long training on '
        'random tokens, such as this one, is chaotic: rounding errors grow with the metagradient. '
        'The records have the differences of shorter runs. The gradient of `Truncated(10)` is '
        'another one, and biased.',
        '- The hand-written loop does what engines of data attribution do: snapshots in files at '
        'equal distances, about the root of the number of steps; every segment trained again, with '
        'its carries in memory; one derivative a step, with cotangents carried by hand.',
        '- The ratios below the table were computed before rounding.',
        '',
        'The dashed line is without this project; hollow points are extrapolated:',
        '',
        f'![Peak memory and time against the number of inner steps]({PLOT})',
        '',
        *table(
            header,
            [
                [
                    way if way == HAND_WRITTEN else f'`{way}`',
                    *(str(row.get(length, '')) for length in lengths),
                    last_difference(row),
                ]
                for way, row in rows.items()
            ],
        ),
        '',
        *_ratios(rows),
        '',
    ]
    return '\n'.join(lines)


def _rows(stored: dict[str, Any]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for record in stored['records']:
        rows.setdefault(record['way'], {})[record['steps']] = Result.of(record)
    return rows


def _ratios(rows: dict[str, Row]) -> list[str]:
    """Compare the modes with the hand-written loop in the longest run that all have."""
    lines = []
    theirs = rows.get(HAND_WRITTEN, {})
    for way, row in rows.items():
        both = [
            steps for steps in row if row[steps].seconds and theirs.get(steps, row[steps]).seconds
        ]
        if way in PLOTTED and way != HAND_WRITTEN and both and theirs:
            steps = max(both)
            ours, other = row[steps], theirs[steps]
            lines.append(
                f'- `{way}`, {steps:,} steps: {ours.mebibytes / other.mebibytes:.2f} times the '
                f'memory of the hand-written loop, {ours.seconds / other.seconds:.2f} times the '
                'time'
            )
    return lines


def draw(stored: dict[str, Any], path: Path) -> None:
    """Draw peak memory and time of the plotted ways."""
    rows = _rows(stored)
    for_memory, for_time = [], []
    for (way, label), color in zip(PLOTTED.items(), COLORS, strict=True):
        row = rows.get(way, {})
        dashed = way == HAND_WRITTEN
        guessed = [steps for steps, result in row.items() if result.seconds is None]
        memory = {steps: result.mebibytes for steps, result in row.items()}
        times = {steps: result.seconds for steps, result in row.items() if result.seconds}
        for lines, points in ((for_memory, memory), (for_time, times)):
            if points:
                lines.append(Line(label, color, points, guessed, dashed=dashed))
    save_plot(
        {'peak memory': for_memory, 'time': for_time},
        path,
        ylabel='MiB, seconds',
        yformat=lambda cost: f'{cost:,g}',
    )
