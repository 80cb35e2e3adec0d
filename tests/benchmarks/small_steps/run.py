"""Times what the library adds to small steps; writes docs/benchmarks/small-steps.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from options import parse, parser
from processes import settings
from report import machine, table, versions
from small_steps.problems import BY_HAND, CLASSES, COUNT, KINDS, LENGTH


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    options = parse(parser(__doc__), arguments, 'small-steps.md')
    command = [sys.executable, '-m', 'small_steps.measure', 'quick' if options.quick else 'full']
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings()).stdout
    page = _markdown(json.loads(out))
    print(page)
    if options.output:
        options.output.write_text(page)


def _markdown(record: dict[str, Any]) -> str:
    marks = ', '.join(f'{_time(seconds)} ({name})' for name, seconds in record['marks'].items())
    lines = [
        '# Small steps: what the library adds',
        '',
        'Written by `nox -s bench -- small-steps`; the code is in `tests/benchmarks/small_steps`.',
        '',
        f'- {machine()}',
        f'- {versions()}',
        f'- {COUNT} tensors of {LENGTH} numbers, float32. CPU time of one thread; medians. The '
        'implementations run in turn in one process.',
        '- "By hand" are the same operations of torch in a loop without checks, for '
        '`Optimizer.step` the optimizer of `torch.optim`.',
        '',
    ]
    for rule, rows in record['steps'].items():
        shown = [[row, *(_beside(times, kind) for kind in KINDS)] for row, times in rows.items()]
        lines += [f'## {CLASSES[rule]}', '', *table(['', *KINDS], shown), '']
    lines += [
        '## Marks',
        '',
        "A differentiable step marks its nodes in autograd's graph, for `explain` and `make_dot`. "
        f'Of the times of composite steps above, the marks take {marks}.',
        '',
    ]
    return '\n'.join(lines)


def _beside(times: dict[str, float], kind: str) -> str:
    if kind == BY_HAND:
        return _time(times[kind])
    return f'{_time(times[kind])} ({(times[kind] - times[BY_HAND]) * 1e6:+.0f})'


def _time(seconds: float) -> str:
    return f'{seconds * 1e6:,.1f} µs' if seconds < 1e-5 else f'{seconds * 1e6:,.0f} µs'
