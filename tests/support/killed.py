"""Runs that are killed at every moment, one after the other, and go on in another process.

``python -m support.killed module:name folder 1`` calls ``name(folder)``, which returns tensors, in
forked processes: as it is, and for every event with SIGKILL at that event, followed by a process
that does the same again. An event is a call of :func:`step_begins`, or a point within the writing
or the removal of a file. What is found is printed as JSON.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

LIMIT = 600  # seconds for one program


class _Events:
    count = 0
    steps = 0
    killed_at = -1


def event() -> None:
    """End the process, if this is the event to end it at."""
    if _Events.count == _Events.killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    _Events.count += 1


def step_begins() -> None:
    """Count a call of a step, which is an event too."""
    event()
    _Events.steps += 1


def _around(owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        event()
        result = function(*args, **kwargs)
        event()
        return result

    setattr(owner, name, watched)


def _halfway() -> None:
    save = torch.save

    def in_two_parts(content: Any, file: Any) -> None:
        memory = io.BytesIO()
        save(content, memory)
        data = memory.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        event()
        file.write(data[len(data) // 2 :])

    torch.save = in_two_parts


class Report(NamedTuple):
    """What a series of killed runs gave.

    Attributes:
        kills: Number of processes that were killed.
        equal: For each, whether the tensors were those of the run that was not, bit for bit.
        steps: Number of steps that the run took that was not killed.
        most: Most steps that two processes took together.
        left: Names of the files that were left at the end.
    """

    kills: int
    equal: list[bool]
    steps: int
    most: int
    left: list[str]


def _in_a_child(run: Callable[[Path], Any], folder: Path, killed_at: int) -> tuple[bool, Any, int]:
    """Return whether a forked process ended, its tensors, and the steps that it took."""
    out, counted = folder.parent / 'tensors.pt', folder.parent / 'steps'
    out.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(LIMIT / 5, exit=True)  # rather than hang
        _Events.killed_at = killed_at
        counter = os.open(counted, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        begin = _Events.steps
        save = torch.save
        try:
            _around(os, 'replace')
            _around(os, 'fsync')
            _around(Path, 'unlink')
            _halfway()
            tensors = run(folder)
            save([tensor.detach() for tensor in tensors], out)
            os.write(counter, str(_Events.steps - begin).encode())
            os._exit(0)
        finally:
            import traceback

            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False, None, 0
    assert status == 0, 'the run failed'
    return True, torch.load(out, weights_only=True), int(counted.read_text())


def main(function: str, folder: str, stride: str) -> None:
    module, _, name = function.partition(':')
    run = getattr(importlib.import_module(module), name)
    # What torch imports on first use would be imported in every child.
    importlib.import_module('torch._dynamo')
    torch.func.grad(torch.sin)(torch.zeros(()))
    place = Path(folder) / 'run'
    _, expected, steps = _in_a_child(run, place, -1)
    equal: list[bool] = []
    most = 0
    number = 0
    while True:
        shutil.rmtree(place, ignore_errors=True)
        before = time_of_steps(run, place, number)
        if before is None:
            break
        _, found, after = _in_a_child(run, place, -1)
        equal.append(all(map(torch.equal, expected, found)))
        most = max(most, before + after)
        number += int(stride)
    left = sorted(path.name for path in place.glob('*')) if place.exists() else []
    print(json.dumps(Report(len(equal), equal, steps, most, left)._asdict()))


def time_of_steps(run: Callable[[Path], Any], place: Path, number: int) -> int | None:
    """Return the steps taken until a kill at an event; None if there is no such event."""
    counter = place.parent / 'steps-of-the-killed'

    def counting(folder: Path) -> Any:
        _Events.steps = 0
        handle = os.open(counter, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        kill = os.kill

        def noted(*args: Any) -> None:
            os.write(handle, str(_Events.steps).encode())
            kill(*args)

        os.kill = noted
        return run(folder)

    ended, _, _ = _in_a_child(counting, place, number)
    return None if ended else int(counter.read_text())


def killed_runs(function: str, folder: Path, *, stride: int = 1) -> Report:
    """Kill ``function``, named as ``module:name``, at every event, or every ``stride``-th."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, '-m', 'support.killed', function, str(folder), str(stride)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True
    )
    return Report(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == '__main__':
    # The functions import this module by its name, and must count in the same place.
    importlib.import_module('support.killed').main(*sys.argv[1:])
