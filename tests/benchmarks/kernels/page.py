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
        'Written by `nox -s bench -- kernels`; what is timed is in `tests/benchmarks/kernels`. '
        'Beside the peers: [benchmarks.md](benchmarks.md).',
        '',
        f'- {machine()}, {device}',
        f'- {versions()}',
        '- Medians, float32; the two ways run in turn in one process.',
        '',
        '## Differentiable steps',
        '',
        '`update(..., inplace=False)` and its backward pass by gradients and all moments, one '
        'thread: composite, accelerated (ratio).',
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
        'Held by each differentiable step of Adam until its backward pass, in multiples of the '
        'parameters; gradient and new moments, the least that its derivative needs, are 3:',
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
        f'Accelerated, the time with one thread over that with {more["threads"]}:',
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
        f'At 4 × (1024, 1024), a copy moves {copy / 1e9:.1f} GB/s, counting what it reads and '
        f'writes. Adam, with all that is around its kernels: forward {rates["forward"] / 1e9:.1f} '
        f'GB/s ({rates["forward"] / copy:.0%} of the copy), backward '
        f'{rates["backward"] / 1e9:.1f} GB/s ({rates["backward"] / copy:.0%}).',
    ]


def _time(seconds: float) -> str:
    value, unit = (seconds * 1e3, 'ms') if seconds >= 1e-3 else (seconds * 1e6, 'µs')
    return f'{value:.3g} {unit}'
