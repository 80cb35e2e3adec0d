"""The measurements of meta-steps as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from meta_steps.cells import OVER, UNTRIED
from meta_steps.measure import CALLS
from meta_steps.problems import CHANNELS, CLASSES, PIXELS, PROBLEMS, TASKS
from meta_steps.ways import REFERENCE, WAYS, Way
from problems import SINUSOIDS
from report import machine, table, versions

PLOT, DEEP_PLOT = 'meta-steps.png', 'meta-steps-conv4.png'

# Of a table: the problem and the number of steps by the heading of the column.
Columns = dict[str, tuple[str, int]]


def heading() -> list[str]:
    """Return the date, the machine and the versions."""
    return [machine(), versions()]


def markdown(results: dict) -> str:
    """Return the page; incomplete results give an incomplete page."""
    records = results['records']
    threads = sorted({record['threads'] for record in records if record['task'] != 'compare'})
    least = threads[0] if threads else 1
    tables = _tables(results['steps'])
    lines = [
        '# Meta-steps',
        '',
        'The meta-gradient of MAML through K inner steps, computed in every way that this project '
        'offers and by other libraries. Written by `nox -s bench -- meta-steps`; the code is in '
        '`tests/benchmarks/meta_steps`, the data in [meta-steps.jsonl](meta-steps.jsonl).',
        '',
        *(f'- {line}' for line in results['heading']),
        '- Sinusoids: MLPs of two hidden layers, adapted by Adam. '
        f'Small: {SINUSOIDS["small"]}. Large: {SINUSOIDS["large"]}.',
        f'- Conv4: the network of Finn et al. (2017), {CHANNELS} channels, normalized by the batch '
        f'at hand; {TASKS} tasks of {CLASSES} classes with one image of {PIXELS} × {PIXELS} each '
        'for the inner and the outer loss, adapted by SGD or Adam.',
        f'- float32. A process takes the median of at least {CALLS} calls after the first. A time '
        f'is the median over {_processes(results["rounds"])}. All ways run in turn. A process is '
        'bound to as many cores as it has threads.',
        f'- "> {results["limit"]:.0f} s": the process was stopped after that time, which includes '
        'the first call. "—": not tried, because a smaller K took too long or extrapolation from '
        'smaller K exceeded the limit.',
        '',
        f'With {_threads(least)}; dashed lines are other libraries:',
        '',
        f'![Time against the number of inner steps]({PLOT})',
        '',
        f'Conv4 with {_threads(least)}; hollow dots are other libraries:',
        '',
        f'![Time of a meta-step of Conv4]({DEEP_PLOT})',
    ]
    for title, columns in tables.items():
        for count in threads:
            rows = _rows(results, columns, count, ['time'], 'median', _seconds)
            lines += _section(f'## Time: {title}, {_threads(count)}', columns, rows)
    lines += [
        '',
        '## First call of what compiles',
        '',
        'With an empty cache / with the cache of an earlier process. Processes on all cores '
        'compile at the same time when the cache is empty.',
    ]
    compiled = {way.name for way in WAYS if way.compiled}
    for title, columns in tables.items():
        both = _rows(results, columns, least, ['compile', 'time'], 'first', _seconds)
        lines += _section('', columns, [row for row in both if row[0] in compiled], title)
    lines += [
        '',
        '## Memory',
        '',
        'The rise of resident memory during one call after the first, with '
        f'{_threads(least)}: the high-water mark `VmHWM` of Linux, reset before the call, '
        'minus `VmRSS` before the call.',
    ]
    for title, columns in tables.items():
        rows = _rows(results, columns, least, ['time'], 'peak', _mebibytes)
        lines += _section('', columns, rows, title)
    lines += ['', '## The ways', '', *(f'- **{way.name}**: {way.note}' for way in WAYS if way.note)]
    measured = {record['way'] for record in records if record['task'] == 'time'}
    missing = [way.name for way in WAYS if way.name not in measured]
    if missing:
        lines.append(
            f'- Without figures: {", ".join(missing)}. The library is not installed, or the '
            'benchmark stopped early.'
        )
    lines += [f'- **{name}**: {reason}' for name, reason in results['unavailable'].items()]
    return '\n'.join([*lines, *_comparison(results), ''])


def _tables(steps: list[int]) -> dict[str, Columns]:
    """Return the columns of each table by its title: numbers of steps, or optimizers."""
    tables: dict[str, Columns] = {}
    for name, problem in PROBLEMS.items():
        for k in problem.lengths(steps):
            network, _, rule = name.partition(', ')
            if problem.is_deep:
                tables.setdefault(f'{network}, K = {k}', {})[rule] = name, k
            else:
                tables.setdefault(name, {})[f'K = {k}'] = name, k
    return tables


def _rows(
    results: dict,
    columns: Columns,
    threads: int,
    tasks: Sequence[str],
    key: str,
    show: Callable[[float], str],
) -> list[list[str]]:
    """Return a row for each way with figures: in each column the ``key`` of all tasks."""

    def cell(task: str, way: Way, problem: str, steps: int) -> str:
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
        [
            way.name,
            *(' / '.join(cell(task, way, *where) for task in tasks) for where in columns.values()),
        ]
        for way in WAYS
    ]
    nothing = ' / '.join(['n/a'] * len(tasks))
    return [row for row in rows if set(row[1:]) != {nothing}]


def _section(title: str, columns: Columns, rows: list[list[str]], corner: str = '') -> list[str]:
    if not rows:
        return []
    return [*(['', title] if title else []), '', *table([corner, *columns], rows)]


def _comparison(results: dict) -> list[str]:
    compared = [record for record in results['records'] if 'difference' in record]
    if not compared:
        return []
    steps = compared[0]['steps']
    known = {record['problem'] for record in compared}
    columns = {name: (name, steps) for name in PROBLEMS if name in known}
    return [
        '',
        '## What was computed',
        '',
        f'The largest difference between the meta-gradient and the one of "{REFERENCE.name}" at '
        'the same `eps_root`, relative to its largest entry; '
        f'K = {steps}, float64. The benchmark fails if a way of this project '
        'differs by more than rounding. In Conv4, the biases before a normalization have gradients '
        'that are 0 up to rounding. Without `eps_root`, Adam divides rounding by rounding, and the '
        'libraries that lack it differ by any number, or have no derivative ("nan").',
        '',
        *table(
            ['', *columns], _rows(results, columns, 1, ['compare'], 'difference', '{:.0e}'.format)
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
