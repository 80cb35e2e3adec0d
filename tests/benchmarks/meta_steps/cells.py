"""One process for each measurement of a meta-step, with a time limit and its own cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from meta_steps.ways import Way
from processes import extrapolated, settings

OVER = 'took longer'
UNTRIED = 'was not tried'


class Cell(NamedTuple):
    """What one process measures.

    Attributes:
        task: ``'compile'``, ``'time'`` or ``'compare'``, see ``measure.py``.
        way: How the meta-step is computed.
        problem: Its name.
        threads: How many the process may use.
        steps: Numbers of inner steps, in increasing order.
        memory: Whether peak memory is measured too.
        dtype: The dtype of all tensors.
    """

    task: str
    way: Way
    problem: str
    threads: int
    steps: Sequence[int]
    memory: bool = False
    dtype: str = 'float32'

    def __str__(self) -> str:
        numbers = ', '.join(map(str, self.steps))
        return (
            f'{self.task}: {self.way.name}; {self.problem}, threads {self.threads}, K = {numbers}'
        )


@dataclass
class Cells:
    """Starts the processes and keeps their records.

    Attributes:
        pythons: The interpreter of each way.
        caches: Folder of the compilers' caches.
        limit: Seconds that a process may take.
        seconds: How long a warm meta-step is repeated. A meta-step that takes longer is measured in
            one process only.
        total: The planned number of processes.
        records: The measurements, one dictionary for each meta-step of each process.
    """

    pythons: dict[Way, Path]
    caches: Path
    limit: float
    seconds: float
    total: int
    records: list[dict] = field(default_factory=list)
    _begun: int = 0
    _since: float = field(default_factory=time.monotonic)

    def run(self, cell: Cell, cores: Sequence[int]) -> None:
        """Measure on ``cores``, unless earlier records show that the limit would pass."""
        self._begun += 1
        minutes = (time.monotonic() - self._since) / 60
        cell = cell._replace(steps=[k for k in cell.steps if not self._known(cell, k)])
        if not cell.steps:
            return
        place = f'{self._begun} of {self.total}, {minutes:.1f} min'
        slow = self._slow(cell)
        if slow:
            self._tell(f'{place}: {cell}: {slow}')
            self._add(cell, *({'steps': k, 'failure': slow} for k in cell.steps))
            return
        self._tell(f'{place}: {cell}')
        begin = time.monotonic()
        found, failure = self._process(cell, cores)
        # By this the next number of steps is extrapolated; unknown if one process runs several.
        took = {'seconds': time.monotonic() - begin} if len(cell.steps) == 1 else {}
        self._add(cell, *({**record, **took} for record in found))
        if failure:
            self._tell(f'{cell}: {failure}')
            missing = cell.steps[len(found) :]
            reasons = [failure, *[UNTRIED] * len(missing)]
            self._add(cell, *({'steps': k, 'failure': why} for k, why in zip(missing, reasons)))

    def _tell(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _add(self, cell: Cell, *records: dict) -> None:
        self.records += [{**_identity(cell), **record} for record in records]

    def _known(self, cell: Cell, steps: int) -> bool:
        """Tell whether it was measured, or given up, and is too long to be measured again."""
        wanted = {**_identity(cell), 'steps': steps}
        return any(
            (record.get('median', 0.0) > self.seconds or record.get('failure') in (OVER, UNTRIED))
            and wanted.items() <= record.items()
            for record in list(self.records)
        )

    def _slow(self, cell: Cell) -> str | None:
        """Return why the limit would pass: fewer steps, or another number of threads, passed it."""
        least = cell.steps[0]
        before = [
            record
            for record in list(self.records)
            if (record['way'], record['problem']) == (cell.way.name, cell.problem)
        ]
        failed = {r['steps']: r['failure'] for r in before if r.get('failure') in (OVER, UNTRIED)}
        if failed and min(failed) <= least:
            return failed.get(least, UNTRIED)
        known = {
            record['steps']: record['seconds']
            for record in before
            if (record['task'], record['threads']) == (cell.task, cell.threads)
            and 'seconds' in record
            and record['steps'] < least
        }
        return UNTRIED if extrapolated(known, least) > self.limit else None

    def _process(self, cell: Cell, cores: Sequence[int]) -> tuple[list[dict], str | None]:
        """Return the records and, if some are missing, the reason."""
        folder = f'{cell.way.name} {cell.problem} {cell.threads} {cell.steps[0]} {cell.dtype}'
        cache = str(self.caches / folder.replace(' ', ''))
        command = [
            *(self.pythons[cell.way], '-m', 'meta_steps.measure', cell.task),
            *('--way', cell.way.name, '--problem', cell.problem, '--dtype', cell.dtype),
            *('--steps', *cell.steps, '--cores', *cores, '--threads', cell.threads),
            *('--seconds', self.seconds, *['--memory'] * cell.memory),
        ]
        process = subprocess.Popen(
            list(map(str, command)),
            **settings(
                cell.threads,
                TORCHINDUCTOR_CACHE_DIR=cache,
                JAX_COMPILATION_CACHE_DIR=cache,
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
                JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1',
            ),
            stdout=subprocess.PIPE,
            text=True,
            # Compilers start processes too; a session lets them be killed together.
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=self.limit)
            failure = 'failed' if process.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            failure = OVER
        return [json.loads(line) for line in output.splitlines()], failure


def _identity(cell: Cell) -> dict[str, str | int]:
    """Return the fields that all records of a cell share."""
    return {
        'task': cell.task,
        'way': cell.way.name,
        'problem': cell.problem,
        'threads': cell.threads,
    }
