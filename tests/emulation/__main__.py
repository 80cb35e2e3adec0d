"""``python -m emulation FOLDER``: solve all cases with the library in a folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from emulation.cases import every_case
from emulation.compare import compare
from emulation.library import Library
from torchopt_accel.kernels import DTYPES


def main() -> int:
    """Return 0 if all cases agree."""
    by_name = {str(dtype).removeprefix('torch.'): dtype for dtype in DTYPES}
    parser = argparse.ArgumentParser(prog='python -m emulation', description=__doc__)
    parser.add_argument('library', type=Path, help='what emulation.library.build returned')
    parser.add_argument('--dtype', action='append', choices=by_name, help='default: all')
    parser.add_argument('--variants', type=int, default=6, help='cases of every kind')
    options = parser.parse_args()
    library = Library(options.library)
    dtypes = [by_name[name] for name in options.dtype or by_name]
    return solve_all(library, dtypes, options.variants)


def solve_all(library: Library, dtypes: Sequence[torch.dtype], variants: int) -> int:
    """Print what came out; return 0 if all cases agree, and stop after three that don't."""
    total: Counter[str] = Counter()
    for case in every_case(library.rules, dtypes, variants):
        outcome = compare(case, library)
        total.update(cases=1, numbers=outcome.numbers, **outcome.counts._asdict())
        if outcome.mistakes:
            total.update(wrong=1)
            print(f'DIFFERENT: {str(case)[:500]}', *outcome.mistakes, sep='\n  ', flush=True)
            if total['wrong'] == 3:
                break
    if total['wrong']:
        print('Are the CPU kernels older than the sources? Then install packages/accel again.')
    print(', '.join(f'{value:,} {name}' for name, value in total.items()))
    return int(bool(total['wrong']) or not total['cases'])


if __name__ == '__main__':
    sys.exit(main())
