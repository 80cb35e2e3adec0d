"""Measures long unrolls beside the peers; writes docs/long-unrolls-benchmarks.md and a plot.

Every measurement has a process of its own, the peers' in environments of their own. A way whose
memory would not fit is extrapolated from its shorter unrolls and marked so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.append(str(HERE.parent))  # what all benchmarks share

from problems import PROBLEMS  # noqa: E402
from ways import PLAIN, WAYS  # noqa: E402

from environments import python_of  # noqa: E402
from libraries import LIBRARIES  # noqa: E402
from report import processor, table  # noqa: E402

ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
Way = tuple[str, str]


class Result(NamedTuple):
    """Medians over the rounds; an extrapolated one has no time and no gradient."""

    mebibytes: float
    seconds: float | None
    gradient: list[float] | None


# {way: {number of steps: result}}
Results = dict[Way, dict[int, Result]]


def main() -> None:
    """Measure and report."""
    options = _options()
    pythons = {}
    for library in LIBRARIES:
        if any(library.name == name for name, _ in WAYS):
            pythons[library.name] = python_of(library, options.environments)
    found: dict[str, Results] = {
        problem: _measured(problem, pythons, options)
        for problem in PROBLEMS
        if options.only in problem
    }
    plot = options.output.with_suffix('.png')
    page = _page(found, plot.name, options)
    print(page)
    if not (options.quick or options.only):
        options.output.write_text(page)
        save_plot(found, plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--steps', type=int, nargs='+', default=[2, 16, 64, 100, 1000])
    parser.add_argument('--rounds', type=int, default=3, help='of unrolls of less than 100 steps')
    parser.add_argument('--quick', action='store_true', help='few steps, written nowhere')
    parser.add_argument('--only', default='', help='problems whose name contains this')
    parser.add_argument('--device', default='cpu', help='or cuda')
    parser.add_argument('--output', type=Path, default=ROOT / 'docs' / 'long-unrolls-benchmarks.md')
    parser.add_argument(
        '--environments', type=Path, default=ROOT / '.nox' / 'benchmarks', help='kept for next time'
    )
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds = [2, 4], 1
    return options


def _measured(problem: str, pythons: dict[str, Path], options: argparse.Namespace) -> Results:
    results: Results = defaultdict(dict)
    for steps in sorted(options.steps):
        rounds: dict[Way, list[Result]] = defaultdict(list)
        for number in range(options.rounds if steps < 100 else 1):
            # In turn, and back: what the machine does meanwhile befalls all alike.
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                expected = _extrapolated(results[way], steps)
                if expected > 0.8 * _available(options.device):
                    results[way][steps] = Result(expected, None, None)
                    continue
                print(f'{problem}, {steps} steps: {", ".join(way)}', file=sys.stderr)
                rounds[way].append(_measure(problem, way, steps, pythons, options.device))
        for way, values in rounds.items():
            mebibytes, seconds = (median(column) for column in list(zip(*values))[:2])
            results[way][steps] = Result(mebibytes, seconds, values[0].gradient)
    return results


def _extrapolated(results: dict[int, Result], steps: int) -> float:
    """Return the memory that the two longest unrolls so far let expect."""
    known = [(length, result.mebibytes) for length, result in results.items() if result.seconds]
    if len(known) < 2:
        return 0.0
    (short, less), (long, more) = known[-2:]
    return more + (more - less) / (long - short) * (steps - long)


def _available(device: str) -> float:
    """Return the free memory in MiB."""
    if device == 'cuda':
        import torch

        return torch.cuda.mem_get_info()[0] / 2**20
    lines = Path('/proc/meminfo').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith('MemAvailable:'))
    return int(kibibytes) / 1024


def _measure(problem: str, way: Way, steps: int, pythons: dict[str, Path], device: str) -> Result:
    command = [pythons[way[0]], HERE / 'measure.py', problem, *way, str(steps), device]
    environment = {**os.environ, **ONE_THREAD, 'PYTHONDONTWRITEBYTECODE': '1'}
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    found = json.loads(out)
    return Result(found['MiB'], found['seconds'], found['gradient'])


def _page(found: dict[str, Results], plot: str, options: argparse.Namespace) -> str:
    lines = [
        '# Long unrolls: memory and time',
        '',
        'Written by `nox -s bench -- unrolls`; what is measured is in '
        '`tests/benchmarks/long_unrolls`. Which mode to take is said in '
        '[How long can I unroll?](long-unrolls.md).',
        '',
        f'- {datetime.date.today()}, {_device(options.device)}',
        f'- Python {platform.python_version()}, torch {version("torch")}, torchopt-core '
        f'{version("torchopt-core")}, float32',
        '- Every figure is from a process of its own: peak memory beyond what it held before, and '
        f'time, of one meta-gradient through Adam. Medians of {options.rounds} processes below 100 '
        'steps. *Italic*: would not fit, extrapolated.',
        '- By the weights of all examples; "by lr": by the learning rate alone. `Truncated(10)` '
        'gives another, biased gradient. For `torch.utils.checkpoint` every step is checkpointed. '
        'higher has no `eps_root`, 1e-8 for the others, so that its derivative is another, too.',
        '',
        f'![memory against the number of steps]({plot})',
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
    longest = max(plain)
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
    return f'{processor()}, {platform.system()}, one thread'


def save_plot(found: dict[str, Results], path: Path) -> None:
    """Draw memory against the number of steps; crosses are extrapolated."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(14, 6), layout='constrained')
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
    panels[-1].legend(fontsize='small')
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    main()
