"""The measurements of the kernels as Markdown."""

from __future__ import annotations

from typing import Any

from kernels.problems import IMAGES, UNROLLED
from report import machine, table, versions

Record = dict[str, Any]


def markdown(records: list[Record], device: str) -> str:
    """Return the page."""
    single = records[0]
    lines = [
        '# Fused kernels',
        '',
        'Written by `nox -s bench -- kernels`; the problems are in `tests/benchmarks/kernels`. '
        'For other libraries see [Steps beside other libraries](steps.md).',
        '',
        f'- {machine()}, {device}',
        f'- {versions()}',
        '- Medians, float32. The implementations run in turn in one process.',
        '',
        '## Differentiable steps',
        '',
        '`update(..., inplace=False)` and its backward pass with respect to gradients and all '
        'moments, one thread: composite, accelerated (speed-up). At the smallest size about 40 % '
        'of the accelerated time is the measurement: one more node of autograd, from which the '
        'cotangents come, and a node for every tensor that they reach.',
        '',
        *_differentiated(single['differentiated']),
        '',
        f'One of {UNROLLED} steps, each with the state of the step before, and its share of the '
        'backward pass through all of them:',
        '',
        *_differentiated(single['unrolled']),
        '',
    ]
    if len(records) > 1:
        lines += [*_scaling(*records), '']
    lines += [
        '## In place',
        '',
        '`step()` of the plain optimizers, one thread: composite, accelerated, and the fastest '
        'implementation of `torch.optim` (how many times as long it takes as the accelerated).',
        '',
        *_in_place(single['in place']),
        '',
        '## Memory formats',
        '',
        'Accelerated Adam over {} × {}, one thread: a step in place, and a differentiable step '
        'with its derivative.'.format(*IMAGES),
        '',
        *_formats(single['formats']),
        '',
        '## Bytes',
        '',
        *_bandwidth(single['bandwidth']),
        '',
        'Memory that a differentiable Adam step holds until its backward pass, in multiples of the '
        'parameters. For comparison, the gradient and the two new moments together are 3.',
        '',
        *(f'- {kind}: {value:.1f}' for kind, value in single['held'].items()),
        '',
    ]
    return '\n'.join(lines)


def _differentiated(sizes: Record) -> list[str]:
    names = list(next(iter(sizes.values())))
    return table(
        ['', *sizes],
        [
            [
                f'`{name}`',
                *(
                    f'{_time(row[name]["composite"])}, {_time(row[name]["accelerated"])} '
                    f'(×{row[name]["composite"] / row[name]["accelerated"]:.1f})'
                    for row in sizes.values()
                ),
            ]
            for name in names
        ],
    )


def _scaling(one: Record, more: Record) -> list[str]:
    sizes = one['differentiated']
    names = list(next(iter(sizes.values())))
    return [
        f'Speed-up of the accelerated step from one thread to {more["threads"]}:',
        '',
        *table(
            ['', *sizes],
            [
                [
                    f'`{name}`',
                    *(
                        f'×{sizes[size][name]["accelerated"] / times[name]["accelerated"]:.2f}'
                        for size, times in more['differentiated'].items()
                    ),
                ]
                for name in names
            ],
        ),
    ]


def _in_place(record: Record) -> list[str]:
    sizes = list(next(iter(record.values())))
    return table(
        ['', 'torch.optim', *sizes],
        [
            [f'`{name}`', _of_torch(rows[sizes[0]]), *map(_three, rows.values())]
            for name, rows in record.items()
        ],
    )


def _of_torch(times: Record) -> str:
    """Return the implementation of torch; a dash for an optimizer that torch does not have."""
    return [*times, '–'][2]


def _three(times: Record) -> str:
    shown = ', '.join(map(_time, times.values()))
    best = times.get(_of_torch(times))
    return shown if best is None else f'{shown} (×{best / times["accelerated"]:.2f})'


def _formats(record: Record) -> list[str]:
    formats = list(next(iter(record.values())))
    return table(
        ['', *formats], [[kind, *map(_time, times.values())] for kind, times in record.items()]
    )


def _bandwidth(rates: dict[str, float]) -> list[str]:
    copy = rates['copy']
    return [
        f'At 4 × (1024, 1024), a copy moves {copy / 1e9:.1f} GB/s, reads and writes together. A '
        f'whole Adam step moves {rates["forward"] / 1e9:.1f} GB/s forward '
        f'({rates["forward"] / copy:.0%} of the copy) and {rates["backward"] / 1e9:.1f} GB/s '
        f'backward ({rates["backward"] / copy:.0%}).',
    ]


def _time(seconds: float) -> str:
    value, unit = (seconds * 1e3, 'ms') if seconds >= 1e-3 else (seconds * 1e6, 'µs')
    return f'{value:.3g} {unit}'
