"""The door to the benchmarks: ``python tests/benchmarks [PART ...] [options of the parts]``."""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = {
    'steps': 'steps',
    'kernels': 'kernels',
    'meta-steps': 'meta_steps',
    'unrolls': 'long_unrolls',
}


def main() -> None:
    """Run the parts that are named, or all."""
    arguments = sys.argv[1:]
    named = [argument for argument in arguments if argument in PARTS]
    rest = [argument for argument in arguments if argument not in PARTS]
    for part in named or PARTS:
        import_module(f'{PARTS[part]}.run').main(rest)


if __name__ == '__main__':
    main()
