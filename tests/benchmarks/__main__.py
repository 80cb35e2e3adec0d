"""Runs the benchmarks: ``python tests/benchmarks [PART ...] [options]``.

A part is a folder beside this file, and a page in docs/benchmarks.
"""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = ('steps', 'small-steps', 'kernels', 'meta-steps', 'unrolls', 'training-runs')


def main() -> None:
    """Run the named parts, or all."""
    arguments = sys.argv[1:]
    named = [argument for argument in arguments if argument in PARTS]
    rest = [argument for argument in arguments if argument not in PARTS]
    for part in named or PARTS:
        import_module(f'{part.replace("-", "_")}.run').main(rest)


if __name__ == '__main__':
    main()
