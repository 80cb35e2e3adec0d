"""Memory and times of long unrolls as Markdown and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from long_unrolls.problems import PROBLEMS
from long_unrolls.ways import PLAIN
from report import machine, table, versions

PLOT = 'long-unrolls-benchmarks.png'

Way = tuple[str, str]


class Result(NamedTuple):
    """Medians over the rounds; an extrapolated one has no time and no gradient."""

    mebibytes: float
    seconds: float | None
    gradient: list[float] | None


# {way: {number of steps: result}}
Results = dict[Way, dict[int, Result]]


def markdown(found: dict[str, Results], rounds: int, limit: float, device: str) -> str:
    """Return the page."""
    lines = [
        '# Long unrolls: memory and time',
        '',
        'Written by `nox -s bench -- unrolls`; what is measured is in '
        '`tests/benchmarks/long_unrolls`. Which mode to take is said in '
        '[How long can I unroll?](long-unrolls.md).',
        '',
        f'- {machine()}, {_device(device)}',
        f'- {versions()}, float32',
        '- Every figure is from a process of its own: peak memory beyond what it held before, and '
        f'time, of one meta-gradient through Adam. Medians of {rounds} processes below 64 '
        f'steps. *Italic*: would not fit, extrapolated. Empty: would take over {limit:.0f} s.',
        '- By the weights of all examples; "by lr": by the learning rate alone. `Truncated(10)` '
        'gives another, biased gradient. For `torch.utils.checkpoint` every step is checkpointed. '
        'higher has no `eps_root`, 1e-8 for the others, so that its derivative is another, too.',
        '',
        f'![memory against the number of steps]({PLOT})',
        '',
    ]
    for problem, results in found.items():
        lines += [f'## {problem}: {PROBLEMS[problem].__doc__}', '', *_table(results), '']
        lines += [*_promises(results), '']
    return '\n'.join(lines)


def _table(results: Results) -> list[str]:
    lengths = sorted({length for row in results.values() for length in row})
    header = ['', *(f'{length} steps' for length in lengths), 'difference']
    return table(
        header,
        [
            [
                f'{library}: `{way}`' if library != PLAIN[0] else f'`{way}`',
                *(_cell(results[library, way].get(length)) for length in lengths),
                _difference(results, (library, way)),
            ]
            for library, way in results
        ],
    )


def _cell(result: Result | None) -> str:
    if result is None:
        return ''
    if result.seconds is None:
        return f'*{result.mebibytes:,.0f} MiB*'
    return f'{result.mebibytes:,.0f} MiB, {result.seconds:.3g} s'


def _difference(results: Results, way: Way) -> str:
    """Return the largest difference from the plain graph's gradient, relative to its largest."""
    reference = results[(PLAIN[0], 'Stored(), by lr') if way[1].endswith('by lr') else PLAIN]
    lengths = [
        length
        for length, row in results[way].items()
        if row.gradient and reference[length].gradient
    ]
    if not lengths:
        return ''
    ours, theirs = results[way][lengths[-1]].gradient, reference[lengths[-1]].gradient
    largest = max(map(abs, theirs))
    return f'{max(abs(a - b) for a, b in zip(ours, theirs)) / largest:.0e}'


def _promises(results: Results) -> list[str]:
    """Return what the modes save, where all that it takes was measured."""
    plain, by_lr = results[PLAIN], results[PLAIN[0], 'Stored(), by lr']
    longest = max(length for row in results.values() for length in row)
    # The plain graph of so many steps may not fit; a step of it takes as long as in a shorter one.
    timed = max(length for length, row in plain.items() if row.seconds)
    plain_seconds = plain[timed].seconds * longest / timed

    def line(way: str, steps: int, other: Result | None, less: str, seconds: float | None) -> str:
        result = results[PLAIN[0], way].get(steps)
        if other is None or result is None or result.seconds is None:
            return f'- `{way}` of {steps} steps: not compared'
        text = f'- `{way}` of {steps} steps: memory {result.mebibytes / other.mebibytes:.2f} {less}'
        return text + (
            f'; {result.seconds / seconds:.2f} of the time of `Stored()`' if seconds else ''
        )

    return [
        line(
            'Recomputed()', 16, plain.get(16), 'of `Stored()`', plain.get(16, plain[timed]).seconds
        ),
        line('Snapshots()', longest, plain.get(64), 'of `Stored()` of 64', plain_seconds),
        line('ForwardMode(), by lr', longest, by_lr.get(2), 'of `Stored()` of 2', None),
    ]


def _device(device: str) -> str:
    if device == 'cuda':
        import torch

        return torch.cuda.get_device_name()
    return 'one thread'


def save_plot(found: dict[str, Results], path: Path) -> None:
    """Draw memory against the number of steps; crosses are extrapolated."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, ((*panels,),) = plt.subplots(
        1, len(found), figsize=(14, 7), layout='constrained', squeeze=False
    )
    for axes, (problem, results) in zip(panels, found.items()):
        for number, ((library, way), row) in enumerate(results.items()):
            color, style = f'C{number % 10}', '-' if number < 10 else '--'
            label = way if library == PLAIN[0] else f'{library}: {way}'
            axes.plot(
                list(row), [r.mebibytes for r in row.values()], style, color=color, label=label
            )
            for length, result in row.items():
                marker = 'o' if result.seconds else 'x'
                axes.plot(length, result.mebibytes, marker, color=color)
        axes.set(xscale='log', yscale='log', xlabel='inner steps', title=problem)
    panels[0].set_ylabel('peak memory, MiB')
    figure.legend(*panels[-1].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.savefig(path, dpi=120)
