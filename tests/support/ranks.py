"""Functions that run on several ranks, as processes of this machine that talk through gloo."""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

LIMIT = 120  # seconds, for all ranks together


def on_ranks(world: int, function: str, folder: Path) -> None:
    """Call ``function(folder)``, named as ``module:name``, in ``world`` processes."""
    environment = {**os.environ, 'GLOO_SOCKET_IFNAME': 'lo', 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, '-m', 'support.ranks', function, str(folder), str(world)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=LIMIT)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for number, (rank, output) in enumerate(zip(ranks, outputs)):
        assert rank.returncode == 0, f'rank {number} of {world}:\n{output}'


def main(function: str, folder: str, world: str, rank: str) -> None:
    module, _, name = function.partition(':')
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous-{name}-{world}',
        world_size=int(world),
        rank=int(rank),
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        getattr(importlib.import_module(module), name)(Path(folder))
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
