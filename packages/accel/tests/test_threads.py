"""Threads of Python and of OpenMP, and processes that fork after a parallel call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

import torchopt

pytestmark = pytest.mark.slow

SIZE = 300_000


def steps(seed: int, count: int = 20) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    params = [torch.randn(SIZE, generator=source)]
    optimizer = torchopt.adam(0.1, use_accelerated_op=True)
    state = optimizer.init(params)
    for _ in range(count):
        updates, state = optimizer.update([params[0].sin()], state, inplace=True)
        params = [params[0] + updates[0]]
    return params[0]


def test_threads_of_python() -> None:
    expected = [steps(seed) for seed in range(2)]
    actual: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: actual.update({seed: steps(seed)}))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(actual[seed], expected[seed]) for seed in range(2))


def run(code: str) -> str:
    finished = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True
    )
    return finished.stdout.strip()


PARALLEL = """
import os, torch, torchopt
from pathlib import Path
optimizer = torchopt.sgd(0.1, momentum=0.9, use_accelerated_op=True)
grads = [torch.ones(500_000)]
state = optimizer.init(grads)
def step():
    return optimizer.update(grads, state, inplace=False)[0][0]
def threads():
    return len(list(Path('/proc/self/task').iterdir()))
"""


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='counts threads in /proc')
def test_number_of_threads() -> None:
    code = (
        PARALLEL
        + 'before = threads(); torch.set_num_threads({0}); step(); print(threads() - before)'
    )
    assert run(code.format(1)) == '0'
    assert int(run(code.format(3))) >= 2


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_fork_after_parallel_call() -> None:
    code = (
        PARALLEL
        + """
torch.set_num_threads(2)
expected = step()
child = os.fork()
if child == 0:
    os._exit(0 if optimizer.update(grads, state)[0][0][0].item() == expected[0].item() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert run(code) == '0'


def test_one_openmp_runtime() -> None:
    code = (
        PARALLEL
        + """
step()
lines = Path('/proc/self/maps').read_text().splitlines()
print(len({line.split()[-1] for line in lines if 'gomp' in line or 'iomp' in line}))
"""
    )
    assert run(code) == '1'


def test_small_stack() -> None:
    """Of Python's threads, some have little."""
    code = """
import threading, torch, torchopt
threading.stack_size(128 << 10)
def run():
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    gradient = torch.ones(20_000, dtype=torch.float64)
    optimizer = torchopt.adam(rate, use_accelerated_op=True)
    (update,), _ = optimizer.update([gradient], optimizer.init([gradient]), inplace=False)
    print(torch.autograd.grad(update.sum(), rate)[0].item())
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    assert float(run(code)) == pytest.approx(-20_000)
