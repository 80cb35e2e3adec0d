"""The measurements of meta-steps as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from meta_steps.cells import OVER, UNTRIED
from meta_steps.measure import CALLS
from meta_steps.problems import PROBLEMS
from meta_steps.ways import REFERENCE, WAYS, Way
from report import difference, machine, table, versions


def heading() -> list[str]:
    """Return where the measurements come from."""
    return [machine(), versions()]


def markdown(results: dict) -> str:
    """Return the page; of results that are not complete, what they hold."""
    records = results['records']
    threads = sorted({record['threads'] for record in records if record['task'] != 'compare'})
    lines = [
        '# Meta-steps',
        '',
        'The meta-gradient of MAML on sinusoids through K inner steps of Adam, in every way that '
        'there is to compute it. Written by `nox -s bench -- meta-steps`; what is measured is in '
        '`tests/benchmarks/meta_steps`.',
        '',
        *(f'- {line}' for line in results['heading']),
        f'- MLPs of two hidden layers, float32. Small: {PROBLEMS["small"]}. '
        f'Large: {PROBLEMS["large"]}.',
        f'- Times are medians of at least {CALLS} calls that are not the first, and of '
        f'{results["rounds"]} processes, each in turn with those of other ways; of one, where a '
        'call takes more than half a second. A process is bound to as many cores as it has '
        'threads.',
        f'- "> {results["limit"]:.0f} s": the process, first call and all, was ended after that '
        'time. "—": not tried, since a smaller K took so long, or two of them show that it would.',
        '',
        '![Time against the number of inner steps](meta-steps.svg)',
    ]
    for problem in PROBLEMS:
        for count in threads:
            rows = _rows(results, problem, count, ['time'], 'median', _seconds)
            lines += _section(f'## Time: {problem}, {_threads(count)}', results, rows)
    lines += [
        '',
        '## First call of what compiles',
        '',
        'With an empty cache / with the cache of an earlier process. With an empty cache, '
        'processes on all cores compile at the same time.',
    ]
    compiled = {way.name for way in WAYS if way.compiled}
    for problem in PROBLEMS:
        both = _rows(results, problem, threads[0], ['compile', 'time'], 'first', _seconds)
        lines += _section('', results, [row for row in both if row[0] in compiled], problem)
    lines += [
        '',
        '## Memory',
        '',
        'By how much the resident memory rises during one call that is not the first (`VmHWM` of '
        f'Linux, reset before the call, less `VmRSS` before it), with {_threads(threads[0])}.',
    ]
    for problem in PROBLEMS:
        rows = _rows(results, problem, threads[0], ['time'], 'peak', _mebibytes)
        lines += _section('', results, rows, problem)
    lines += ['', '## The ways', '', *(f'- **{way.name}**: {way.note}' for way in WAYS if way.note)]
    measured = {record['way'] for record in records if record['task'] == 'time'}
    missing = [way.name for way in WAYS if way.name not in measured]
    if missing:
        lines.append(
            f'- Without figures: {", ".join(missing)}; what they need is not installed, or they '
            'do not have Adam, or the benchmark did not come so far.'
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
    """Return a row for each way that has figures: for each K the ``key`` of each of the tasks."""

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
        f'{reference["problem"]}, float64.',
        '',
        *table(
            ['', 'difference'],
            [[name, f'{difference(found, reference):.0e}'] for name, found in compared.items()],
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
