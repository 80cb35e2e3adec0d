"""Memory and times of long unrolls as Markdown and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plots import COLORS, Line, save_plot
from report import machine, table, versions
from rounds import Result, device_name, last_difference
from unrolls.problems import PROBLEMS
from unrolls.ways import PLAIN, PLOTTED, reference

PLOT = 'unrolls.png'

Way = tuple[str, str]


# {way: {number of steps: result}}
Results = dict[Way, dict[int, Result]]


def heading(device: str) -> list[str]:
    """Return the date, the machine and the versions."""
    return [f'{machine()}, {device_name(device)}', f'{versions()}, float32']


def markdown(stored: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        '# Long unrolls: memory and time',
        '',
        'Written by `nox -s bench -- unrolls`; the code is in `tests/benchmarks/unrolls`, the data '
        'in [unrolls.jsonl](unrolls.jsonl). Which mode to take: '
        '[How long can I unroll?](../guides/long-unrolls.md)',
        '',
        *(f'- {line}' for line in stored['heading']),
        '- Every figure comes from its own process: peak memory beyond what the process held '
        'before, and time, of one meta-gradient through Adam. Figures below 64 steps are medians; '
        f'number of processes: {stored["rounds"]}. *Italic*: would not fit, extrapolated. '
        f'Empty: would take over {stored["limit"]:.0f} s.',
        '- The meta-parameters are the weights of all examples or, where marked "by lr", the '
        'learning rate alone.',
        '- "Difference" compares the meta-gradient with the one of `Stored()`, relative to its '
        'largest entry. The gradient of `Truncated(10)` is another one, and biased. higher has no '
        '`eps_root` (1e-8 in all other rows), so its gradient differs too.',
        '- `torch.utils.checkpoint` surrounds every step.',
        '- The ratios below the tables were computed before rounding.',
        '',
        'Hollow points are extrapolated; dashed lines are without `torchopt.unroll`:',
        '',
        f'![Peak memory against the number of inner steps]({PLOT})',
        '',
    ]
    for problem, results in _by_problem(stored).items():
        lines += [f'## {problem}: {PROBLEMS[problem].__doc__}', '', *_table(results), '']
        lines += [*_promises(results), '']
    return '\n'.join(lines)


def _by_problem(stored: dict[str, Any]) -> dict[str, Results]:
    found: dict[str, Results] = {}
    for record in stored['records']:
        ways = found.setdefault(record['problem'], {})
        row = ways.setdefault((record['library'], record['way']), {})
        row[record['steps']] = Result.of(record)
    return found


def _table(results: Results) -> list[str]:
    lengths = sorted({length for row in results.values() for length in row})
    header = ['', *(f'{length} steps' for length in lengths), 'difference']
    return table(
        header,
        [
            [
                f'{library}: `{way}`' if library != PLAIN[0] else f'`{way}`',
                *(str(row.get(length, '')) for length in lengths),
                last_difference(row),
            ]
            for (library, way), row in results.items()
        ],
    )


def _promises(results: Results) -> list[str]:
    """Return the savings of the modes, where everything they compare was measured."""
    plain, by_lr = results[PLAIN], results[reference('by lr')]
    longest = max(length for row in results.values() for length in row)
    # The plain graph may not fit for the longest unroll; a step takes as long in a shorter one.
    timed = max(length for length, row in plain.items() if row.seconds)
    plain_seconds = plain[timed].seconds * longest / timed

    def line(way: str, steps: int, other: Result | None, less: str, seconds: float | None) -> str:
        result = results[PLAIN[0], way].get(steps)
        if other is None or result is None or result.seconds is None:
            return f'- `{way}`, {steps} steps: not compared'
        memory = f'{result.mebibytes / other.mebibytes:.2f} times the memory of {less}'
        times = f', {result.seconds / seconds:.2f} times the time' if seconds else ''
        return f'- `{way}`, {steps} steps: {memory}{times}'

    return [
        line('Recomputed()', 16, plain.get(16), '`Stored()`', plain.get(16, plain[timed]).seconds),
        line('Snapshots()', longest, plain.get(64), '`Stored()` with 64 steps', plain_seconds),
        line('ForwardMode(), by lr', longest, by_lr.get(2), '`Stored(), by lr` with 2 steps', None),
    ]


def draw(stored: dict[str, Any], path: Path) -> None:
    """Draw the memory of the plotted ways."""
    panels = {}
    for problem, results in _by_problem(stored).items():
        panels[problem] = [
            Line(
                label,
                color,
                {steps: result.mebibytes for steps, result in results[way].items()},
                [steps for steps, result in results[way].items() if result.seconds is None],
                dashed=dashed,
            )
            for (way, (label, dashed)), color in zip(PLOTTED.items(), COLORS, strict=True)
        ]
    save_plot(panels, path, ylabel='peak memory [MiB]', yformat=lambda mebibytes: f'{mebibytes:,g}')
