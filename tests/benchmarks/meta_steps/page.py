"""The measurements of meta-steps as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from meta_steps.cells import OVER, UNTRIED
from meta_steps.measure import CALLS
from meta_steps.ways import REFERENCE, WAYS, Way
from problems import SINUSOIDS
from report import machine, table, versions

PLOT = 'meta-steps.png'


def heading() -> list[str]:
    """Return the date, the machine and the versions."""
    return [machine(), versions()]


def markdown(results: dict) -> str:
    """Return the page; incomplete results give an incomplete page."""
    records = results['records']
    threads = sorted({record['threads'] for record in records if record['task'] != 'compare'})
    lines = [
        '# Meta-steps',
        '',
        'The meta-gradient of MAML on sinusoids through K inner steps of Adam, computed in every '
        'way that this project offers and by other libraries. Written by '
        '`nox -s bench -- meta-steps`; the code is in `tests/benchmarks/meta_steps`, the data in '
        '[meta-steps.jsonl](meta-steps.jsonl).',
        '',
        *(f'- {line}' for line in results['heading']),
        f'- MLPs of two hidden layers, float32. Small: {SINUSOIDS["small"]}. '
        f'Large: {SINUSOIDS["large"]}.',
        f'- A process takes the median of at least {CALLS} calls after the first. A time is the '
        f'median over {_processes(results["rounds"])}. All ways run in turn. A process is bound to '
        'as many cores as it has threads.',
        f'- "> {results["limit"]:.0f} s": the process was stopped after that time, which includes '
        'the first call. "—": not tried, because a smaller K took too long or extrapolation from '
        'smaller K exceeded the limit.',
        '',
        f'With {_threads(threads[0])}; dashed lines are other libraries:' if threads else '',
        '',
        f'![Time against the number of inner steps]({PLOT})',
    ]
    for problem in SINUSOIDS:
        for count in threads:
            rows = _rows(results, problem, count, ['time'], 'median', _seconds)
            lines += _section(f'## Time: {problem}, {_threads(count)}', results, rows)
    lines += [
        '',
        '## First call of what compiles',
        '',
        'With an empty cache / with the cache of an earlier process. Processes on all cores '
        'compile at the same time when the cache is empty.',
    ]
    compiled = {way.name for way in WAYS if way.compiled}
    for problem in SINUSOIDS:
        both = _rows(results, problem, threads[0], ['compile', 'time'], 'first', _seconds)
        lines += _section('', results, [row for row in both if row[0] in compiled], problem)
    lines += [
        '',
        '## Memory',
        '',
        'The rise of resident memory during one call after the first, with '
        f'{_threads(threads[0])}: the high-water mark `VmHWM` of Linux, reset before the call, '
        'minus `VmRSS` before the call.',
    ]
    for problem in SINUSOIDS:
        rows = _rows(results, problem, threads[0], ['time'], 'peak', _mebibytes)
        lines += _section('', results, rows, problem)
    lines += ['', '## The ways', '', *(f'- **{way.name}**: {way.note}' for way in WAYS if way.note)]
    measured = {record['way'] for record in records if record['task'] == 'time'}
    missing = [way.name for way in WAYS if way.name not in measured]
    if missing:
        lines.append(
            f'- Without figures: {", ".join(missing)}. The library is not installed, has no Adam, '
            'or the benchmark stopped early.'
        )
    lines += [f'- **{name}**: {reason}' for name, reason in results['unavailable'].items()]
    return '\n'.join([*lines, *_comparison(records), ''])


def _rows(
    results: dict,
    problem: str,
    threads: int,
    tasks: Sequence[str],
    key: str,
    show: Callable[[float], str],
) -> list[list[str]]:
    """Return a row for each way with figures: for each K the ``key`` of all tasks."""

    def cell(task: str, way: Way, steps: int) -> str:
        wanted = {
            'task': task,
            'way': way.name,
            'problem': problem,
            'threads': threads,
            'steps': steps,
        }
        found = [record for record in results['records'] if wanted.items() <= record.items()]
        return _cell(found, key, show, results['limit'])

    rows = [
        [way.name, *(' / '.join(cell(task, way, k) for task in tasks) for k in results['steps'])]
        for way in WAYS
    ]
    nothing = ' / '.join(['n/a'] * len(tasks))
    return [row for row in rows if set(row[1:]) != {nothing}]


def _section(title: str, results: dict, rows: list[list[str]], corner: str = '') -> list[str]:
    if not rows:
        return []
    header = [corner, *(f'K = {k}' for k in results['steps'])]
    return [*(['', title] if title else []), '', *table(header, rows)]


def _comparison(records: list[dict]) -> list[str]:
    compared = [record for record in records if 'difference' in record]
    if not compared:
        return []
    return [
        '',
        '## What was computed',
        '',
        f'The largest difference between the meta-gradient and the one of "{REFERENCE.name}" at '
        'the same `eps_root`, relative to its largest entry; '
        f'K = {compared[0]["steps"]}, {compared[0]["problem"]}, float64.',
        '',
        *table(
            ['', 'difference'],
            [[record['way'], f'{record["difference"]:.0e}'] for record in compared],
        ),
    ]


def _cell(found: list[dict], key: str, show: Callable[[float], str], limit: float) -> str:
    values = [record[key] for record in found if record.get(key) is not None]
    if values:
        return show(median(values))
    failures = {record.get('failure') for record in found}
    if OVER in failures:
        return f'> {limit:.0f} s'
    if UNTRIED in failures:
        return '—'
    return 'failed' if 'failed' in failures else 'n/a'


def _seconds(value: float) -> str:
    return f'{value:.1f} s' if value >= 1 else f'{_three_digits(value * 1e3)} ms'


def _mebibytes(value: float) -> str:
    return f'{_three_digits(value)} MiB'


def _three_digits(value: float) -> str:
    return f'{value:.{max(0, 3 - len(str(int(value))))}f}'


def _threads(count: int) -> str:
    return 'one thread' if count == 1 else f'{count} threads'


def _processes(count: int) -> str:
    if count == 1:
        return 'one process'
    return f'{count} processes, or of one process if a call takes more than half a second'
