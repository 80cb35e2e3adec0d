"""Memory of freed results on the CPU: what is reused, given back, and told."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import torchopt
import torchopt_accel
from torchopt_accel import __main__ as report
from torchopt_accel.memory import describe_memory
from torchopt_accel.platform import C

SANITIZED = 'libasan' in os.environ.get('LD_PRELOAD', '')
keeps = pytest.mark.skipif(SANITIZED, reason='under the address sanitizer no memory is reused')
MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    torchopt_accel.release_memory()
    yield
    torchopt_accel.release_memory()


class Block:
    """Memory of float32 numbers; ``free`` gives it back, as the end of a tensor does."""

    def __init__(self, mebibytes: float) -> None:
        self._capsules, (self.address,) = C.allocate(0, [[int(mebibytes * MIB) // 4]], [])

    def free(self) -> None:
        self._capsules.clear()


def waiting() -> float:
    return C.waiting_bytes() / MIB


def free(*mebibytes: float) -> list[int]:
    """Free blocks of these sizes, in this order; return where they were."""
    blocks = [Block(size) for size in mebibytes]
    for block in blocks:
        block.free()
    return [block.address for block in blocks]


@keeps
def test_memory_is_reused_for_the_same_size() -> None:
    first, second = free(1, 1)
    taken = [Block(1), Block(2), Block(1)]
    assert [taken[0].address, taken[2].address] == [second, first]
    assert waiting() == 0


@keeps
def test_only_what_must_go_goes() -> None:
    free(64, 100, 80, 50)
    assert waiting() == 230
    kept = [Block(100), Block(80), Block(50)]
    assert waiting() == 0
    assert len({block.address for block in kept}) == 3


@keeps
def test_what_has_waited_longest_goes() -> None:
    free(64, 100, 80)
    Block(64).free()  # in use until now
    free(50)
    kept = [Block(64), Block(80), Block(50)]
    assert waiting() == 0
    assert len({block.address for block in kept}) == 3


@keeps
def test_a_model_that_is_gone_makes_room() -> None:
    """Blocks of one size, most of which nobody needs any longer, do not push out another size."""
    free(*[20.0] * 12)
    for _ in range(3):
        free(30, 30)
    assert waiting() <= C.MOST_WAITING / MIB
    taken = [Block(30), Block(30)]
    assert waiting() == 180
    assert taken[0].address != taken[1].address


@keeps
def test_more_than_the_limit_never_waits() -> None:
    free(1, C.MOST_WAITING / MIB + 1)
    assert waiting() == 1


@keeps
def test_release_returns_the_bytes() -> None:
    free(1, 2, 2)
    assert torchopt_accel.release_memory() == 5 * MIB
    assert torchopt_accel.release_memory() == 0
    Block(2)
    assert waiting() == 2


@keeps
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc is told to trim')
def test_release_gives_memory_to_the_system() -> None:
    def resident() -> float:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / MIB

    blocks = [Block(1) for _ in range(32)]
    above = Block(1)  # so that the C library can't lower the end of its heap
    for block in blocks:
        ctypes.memset(block.address, 1, MIB)
    for block in blocks:
        block.free()
    before = resident()
    torchopt_accel.release_memory()
    assert before - resident() > 24
    above.free()


def test_release_leaves_results_alone() -> None:
    optimizer = torchopt.sgd(lr=1.0, momentum=0.9, use_accelerated_op=True)
    grads = [torch.full((5000,), 2.0)]
    updates, _kept = optimizer.update(grads, optimizer.init(grads), inplace=False)
    torchopt_accel.release_memory()
    filled = [Block(5000 * 4 / MIB) for _ in range(4)]
    for block in filled:
        ctypes.memset(block.address, 255, 20_000)
    assert torch.equal(updates[0], torch.full((5000,), -2.0))
    assert not {block.address for block in filled} & {updates[0].data_ptr()}


def test_threads_do_not_share_memory() -> None:
    errors: list[Any] = []

    def work(number: int) -> None:
        for turn in range(60):
            blocks = [Block(0.01 * (1 + (turn + size) % 3)) for size in range(4)]
            for block in blocks:
                ctypes.memset(block.address, number, 4096)
            if turn % 10 == number:
                torchopt_accel.release_memory()
            expected = bytes([number]) * 4096
            errors.extend(b for b in blocks if ctypes.string_at(b.address, 4096) != expected)
            for block in blocks:
                block.free()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_sanitizer_sees_every_release() -> None:
    free(1, 1)
    assert waiting() == (0 if SANITIZED else 2)


@keeps
def test_the_report_tells_what_waits(capsys: pytest.CaptureFixture[str]) -> None:
    free(3.5)
    assert describe_memory() == '3.5 MiB wait for results of later steps, 256 MiB at most'
    report.main()
    line = r'memory on the CPU: +\d+\.\d MiB wait for results of later steps, 256 MiB at most\n'
    assert re.search(line, capsys.readouterr().out)


FORKS = """
import os, threading, torchopt_accel
from torchopt_accel.platform import C

def release():
    while not done:
        # Many sizes, so that the release takes long enough to fork meanwhile.
        C.allocate(0, [[16 * size] for size in range(1, 2500)], [])
        torchopt_accel.release_memory()

done = []
threading.Thread(target=release).start()
for _ in range(60):
    child = os.fork()
    if child == 0:
        C.allocate(0, [[1000]], [])
        torchopt_accel.release_memory()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        os._exit(1)
done.append(True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_fork_while_another_thread_releases() -> None:
    subprocess.run([sys.executable, '-W', 'ignore', '-c', FORKS], timeout=120, check=True)
