"""Functions that run on several ranks, which are processes of this machine."""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from distributed.run import run_file

LIMIT = 400  # seconds, for all ranks together


def on_ranks(world: int, function: str, folder: Path, backend: str = 'gloo') -> None:
    """Call ``function(folder)``, named as ``module:name``, in ``world`` processes.

    Of a file of checks, ``distributed.checks_...``, all checks are called.
    """
    environment = {**os.environ, 'GLOO_SOCKET_IFNAME': 'lo', 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, '-m', 'support.ranks', backend, function, str(folder), str(world)]
    # Files, because a full pipe would stop a rank that nobody reads.
    paths = [folder / f'rank{rank}-of-{world}.txt' for rank in range(world)]
    ranks = []
    for rank, path in enumerate(paths):
        with path.open('w') as output:
            options = {'env': environment, 'stdout': output, 'stderr': output}
            ranks.append(subprocess.Popen([*command, str(rank)], **options))
    late = False
    try:
        for rank in ranks:
            rank.wait(LIMIT)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for number, (rank, path) in enumerate(zip(ranks, paths)):
        failed = late or rank.returncode
        assert not failed, f'rank {number} of {world}, {late=}:\n{path.read_text()}'


def main(backend: str, function: str, folder: str, world: str, rank: str) -> None:
    module, _, name = function.partition(':')
    dist.init_process_group(
        backend,
        init_method=f'file://{folder}/rendezvous-{function}-{world}',
        world_size=int(world),
        rank=int(rank),
        timeout=datetime.timedelta(seconds=200),
    )
    try:
        if name:
            getattr(importlib.import_module(module), name)(Path(folder))
        else:
            run_file(module.removeprefix('distributed.checks_'), Path(folder))
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
