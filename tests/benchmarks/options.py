"""The options that every benchmark has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser to which a benchmark adds its own options."""
    made = argparse.ArgumentParser(description=description.partition('\n')[0])
    made.add_argument('--quick', action='store_true', help='as little as shows that it runs')
    made.add_argument('--only', default='', help='what has this in its name')
    made.add_argument(
        '--output', type=Path, help='the page; by default in docs/, or nowhere if quick or only'
    )
    made.add_argument(
        '--environments', type=Path, default=ROOT / '.nox' / 'benchmarks', help='kept for next time'
    )
    return made


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str], page: str
) -> argparse.Namespace:
    """Return the options, with ``output`` None where nothing is to be written."""
    options = parser.parse_args(arguments)
    options.environments = options.environments.absolute()  # processes start elsewhere
    if options.output is None and not (options.quick or options.only):
        options.output = ROOT / 'docs' / page
    return options
