"""Runs the experiments of the gallery: all, or those named; ``nox -s gallery`` calls this.

With ``--small`` they take seconds each, and nothing is recorded in the tree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import runs
import torch

import report

if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='gallery', description=__doc__)
    parser.add_argument('names', nargs='*', help=f'of {", ".join(runs.names())}')
    parser.add_argument('--small', action='store_true', help='settings that take seconds')
    parser.add_argument('--seeds', type=int, help="default: the experiment's own number")
    parser.add_argument('--output', type=Path, help='for records; default: the gallery itself')
    options = parser.parse_args()
    output = options.output or Path('gallery-output' if options.small else runs.GALLERY)
    torch.set_num_threads(1)  # the networks are too small to share among threads
    for experiment in [runs.load(name) for name in options.names or runs.names()]:
        settings = experiment.SMALL if options.small else experiment.SETTINGS
        seeds = options.seeds or (2 if options.small else experiment.SEEDS)
        path = output / f'{experiment.__name__}.jsonl'
        records = runs.complete(experiment, path, settings, seeds)
        print(f'\n{experiment.__doc__.splitlines()[0]}\n{report.table(experiment, records)}')
        if options.small:
            report.picture(experiment, records).savefig(path.with_suffix('.png'))
            print(f'picture: {path.with_suffix(".png").resolve()}')
