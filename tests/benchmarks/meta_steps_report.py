"""The measurements of meta-steps as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

from cells import OVER, UNTRIED
from report import difference, machine, table, versions
from sizes import SIZES
from ways import REFERENCE, WAYS


def heading() -> list[str]:
    """Return where the measurements come from."""
    return [machine(), versions()]


def markdown(results: dict) -> str:
    """Return the page."""
    records, steps = results['records'], results['steps']
    threads = sorted({record['threads'] for record in records})
    names = [way.name for way in WAYS]

    def rows(size: str, count: int, cell: Callable[[dict, dict], str]) -> list[list[str]]:
        """Return a row for each way with ``cell(cold, warm)`` for each number of steps."""

        def find(task: str, name: str, k: int) -> list[dict]:
            wanted = {'task': task, 'way': name, 'size': size, 'threads': count, 'steps': k}
            return [record for record in records if wanted.items() <= record.items()]

        found = [
            [name, *(cell(find('compile', name, k), find('time', name, k)) for k in steps)]
            for name in names
        ]
        return [row for row in found if not set(row[1:]) <= {'n/a', 'n/a / n/a'}]

    header = ['', *(f'K = {k}' for k in steps)]
    page = [
        '# Meta-steps',
        '',
        'The meta-gradient of MAML on sinusoids through K inner steps of Adam, in every way that '
        'there is to compute it. Written by `nox -s bench`, from `tests/benchmarks/meta_steps.py`.',
        '',
        *(f'- {line}' for line in results['heading']),
        f'- MLPs of two hidden layers, float32. Small: {SIZES["small"]}. Large: {SIZES["large"]}.',
        f'- Times are medians of calls that are not the first, and of {results["rounds"]} '
        'processes, each in turn with those of other ways. A process is bound to as many cores as '
        'it has threads.',
        f'- "> {results["limit"]:.0f} s": the process, first call and all, was ended after that '
        'time; "—": not tried after that.',
        '',
        '![Time against the number of inner steps](meta-steps.svg)',
    ]
    for size in SIZES:
        for count in threads:
            page += [
                '',
                f'## Time: {size}, {_threads(count)}',
                '',
                *table(
                    header,
                    rows(size, count, lambda _, warm: _cell(warm, 'median', _seconds, results)),
                ),
            ]
    page += [
        '',
        '## First call of what compiles',
        '',
        'With an empty cache / with the cache of an earlier process. Without a cache one process '
        'compiles on every group of cores at the same time.',
    ]
    compiled = {way.name for way in WAYS if way.compiled}
    for size in SIZES:
        for count in threads:
            both = rows(
                size,
                count,
                lambda cold, warm: ' / '.join(
                    _cell(found, 'first', _seconds, results) for found in (cold, warm)
                ),
            )
            chosen = [row for row in both if row[0] in compiled]
            page += ['', *table([f'{size}, {_threads(count)}', *header[1:]], chosen)]
    page += [
        '',
        '## Memory',
        '',
        'By how much the resident memory rises during one call that is not the first (`VmHWM` of '
        'Linux, reset before the call, less `VmRSS` before it).',
    ]
    for size in SIZES:
        page += [
            '',
            *table(
                [f'{size}, {_threads(threads[0])}', *header[1:]],
                rows(size, threads[0], lambda _, warm: _cell(warm, 'peak', _bytes, results)),
            ),
        ]
    page += ['', '## The ways', '', *(f'- **{way.name}**: {way.note}' for way in WAYS if way.note)]
    missing = [name for name in names if name not in {record['way'] for record in records}]
    if missing:
        page.append(
            f'- Without figures: {", ".join(missing)}; what they need is not installed, or they '
            'do not have Adam.'
        )
    page += [f'- **{name}**: {reason}' for name, reason in results['unavailable'].items()]
    return '\n'.join([*page, *_comparison(records), ''])


def plot(results: dict, path: Path) -> None:
    """Draw the time against the number of steps."""
    import matplotlib

    matplotlib.use('svg')
    matplotlib.rcParams['svg.hashsalt'] = 'meta-steps'
    from matplotlib import pyplot

    records = [record for record in results['records'] if 'median' in record]
    threads = sorted({record['threads'] for record in records})
    figure, grid = pyplot.subplots(
        len(threads), len(SIZES), sharex=True, squeeze=False, figsize=(11, 4.5 * len(threads))
    )
    for count, row in zip(threads, grid):
        for size, axes in zip(SIZES, row):
            for number, way in enumerate(WAYS):
                points = {
                    k: [
                        record['median'] * 1e3
                        for record in records
                        if (record['way'], record['size'], record['threads'], record['steps'])
                        == (way.name, size, count, k)
                    ]
                    for k in results['steps']
                }
                points = {k: median(times) for k, times in points.items() if times}
                if points:
                    axes.plot(
                        points.keys(),
                        points.values(),
                        marker='osD^v'[number % 5],
                        markersize=4,
                        linestyle='-' if way.compiled else '--',
                        color=matplotlib.colormaps['tab20'](number % 20),
                        label=way.name,
                    )
            axes.set(xscale='log', yscale='log', title=f'{size}, {_threads(count)}')
            axes.set_xticks(results['steps'], map(str, results['steps']))
            axes.grid(alpha=0.3)
        row[0].set_ylabel('meta-step [ms]')
    for axes in grid[-1]:
        axes.set_xlabel('inner steps K')
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.text(0.01, 0.005, '\n'.join(results['heading']), fontsize=6)
    figure.savefig(path, metadata={'Date': None})


def _comparison(records: list[dict]) -> list[str]:
    compared = {record['way']: record for record in records if 'fingerprints' in record}
    if REFERENCE.name not in compared:
        return []
    reference = compared.pop(REFERENCE.name)
    return [
        '',
        '## What was computed',
        '',
        "Largest difference of the meta-gradient from this project's object-oriented one at the "
        f'same `eps_root`, relative to its largest entry; K = {reference["steps"]}, '
        f'{reference["size"]}, float64.',
        '',
        *table(
            ['', 'difference'],
            [[name, f'{difference(found, reference):.0e}'] for name, found in compared.items()],
        ),
    ]


def _cell(found: list[dict], key: str, show: Callable[[float], str], results: dict) -> str:
    values = [record[key] for record in found if record.get(key) is not None]
    if values:
        return show(median(values))
    failures = {record.get('failure') for record in found}
    if OVER in failures:
        return f'> {results["limit"]:.0f} s'
    if UNTRIED in failures:
        return '—'
    return 'failed' if 'failed' in failures else 'n/a'


def _seconds(value: float) -> str:
    return f'{value:.1f} s' if value >= 1 else f'{_three_digits(value * 1e3)} ms'


def _bytes(value: float) -> str:
    return f'{_three_digits(value / 2**20)} MiB'


def _three_digits(value: float) -> str:
    return f'{value:.{max(0, 3 - len(str(int(value))))}f}'


def _threads(count: int) -> str:
    return 'one thread' if count == 1 else f'{count} threads'
