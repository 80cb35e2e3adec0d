"""The measurements of the kernels as Markdown."""

from __future__ import annotations

from typing import Any

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
        'moments, one thread: composite, accelerated (speed-up).',
        '',
        *_differentiated(single),
        '',
    ]
    if len(records) > 1:
        lines += [*_scaling(*records), '']
    lines += [
        '## In place',
        '',
        '`Adam(params).step()`, one thread.',
        '',
        *_in_place(single),
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


def _differentiated(record: Record) -> list[str]:
    sizes = record['differentiated']
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
    rows = record['in place']
    kinds = list(next(iter(rows.values())))
    return table(
        ['', *kinds], [[size, *(_time(row[kind]) for kind in kinds)] for size, row in rows.items()]
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
