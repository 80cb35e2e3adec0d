"""The options that every benchmark has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / 'docs' / 'benchmarks'


def parser(description: str, *, stores: bool = False) -> argparse.ArgumentParser:
    """Return a parser to which a benchmark adds its own options.

    Args:
        description: The benchmark's docstring.
        stores: Whether it stores its records beside the page, so that the page can be written
            again from them.
    """
    made = argparse.ArgumentParser(description=description.partition('\n')[0])
    made.add_argument('--quick', action='store_true', help='measure just enough to show it runs')
    made.add_argument('--only', default='', help='measure what has this text in its name')
    made.add_argument(
        '--output',
        type=Path,
        help='the page; default: in docs/benchmarks, or none if only a part is measured',
    )
    made.add_argument(
        '--environments',
        type=Path,
        default=ROOT / '.nox' / 'benchmarks',
        help='folder of the environments, kept for the next run',
    )
    if stores:
        made.add_argument(
            '--redraw', action='store_true', help='measure nothing; write the page from its records'
        )
    return made


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str], page: str
) -> argparse.Namespace:
    """Return the options, with ``output`` None if nothing is to be written."""
    options = parser.parse_args(arguments)
    options.environments = options.environments.absolute()  # processes start in another folder
    # A benchmark may have an option to choose problems.
    is_part = options.quick or options.only or getattr(options, 'problems', None)
    if options.output is None and not is_part:
        options.output = PAGES / page
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    elif getattr(options, 'redraw', False):
        parser.error('--redraw reads all records of a page: choose no part of it')
    return options
