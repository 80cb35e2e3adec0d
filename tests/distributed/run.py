"""Runs files of checks on the ranks of an initialized process group."""

from __future__ import annotations

import importlib
import inspect
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# In this order. Those that end in _compiled need a compiler.
FILES = (
    'reductions',
    'reductions_compiled',
    'meta_batch',
    'sharded',
    'fused',
)


def run_file(name: str, folder: Path) -> None:
    """Call every function of a file whose name begins with ``check_``, in order."""
    torch.set_num_threads(1)
    module = importlib.import_module(f'distributed.checks_{name}')
    checks = {key: value for key, value in vars(module).items() if key.startswith('check_')}
    assert checks, f'{name} has no checks'
    for key, check in checks.items():
        start = time.perf_counter()
        arguments: list[Any] = [folder] if inspect.signature(check).parameters else []
        try:
            check(*arguments)
        except BaseException:
            print(f'rank {dist.get_rank()}: {name}.{key} failed', flush=True)
            raise
        if dist.get_rank() == 0:
            print(f'{name}.{key}: {time.perf_counter() - start:.2f} s', flush=True)


def run_all() -> None:
    """Run all files, in a folder that all ranks share."""
    with tempfile.TemporaryDirectory() as own:
        shared: list[Any] = [own]
        dist.broadcast_object_list(shared)
        for name in FILES:
            run_file(name, Path(shared[0]))
        dist.barrier()
