"""One process for each measurement of a meta-step, with a limit of time and a cache of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ways import Way

HERE = Path(__file__).parent
OVER = 'took longer'
UNTRIED = 'was not tried'


@dataclass
class Cells:
    """Starts the processes and keeps their records.

    Attributes:
        pythons: The interpreter of each way.
        caches: Folder of what compilers keep.
        limit: Seconds that a process may take.
        seconds: How long a warm meta-step is repeated.
        records: What was measured, a dictionary for each meta-step of each process.
    """

    pythons: dict[Way, Path]
    caches: Path
    limit: float
    seconds: float
    records: list[dict] = field(default_factory=list)

    def run(
        self,
        task: str,
        way: Way,
        size: str,
        cores: Sequence[int],
        steps: Sequence[int],
        dtype: str = 'float32',
    ) -> None:
        """Do a ``task`` of ``meta_step.py`` for each number of ``steps``, in increasing order.

        After a number of steps that takes too long, larger ones are not tried.
        """
        for group in [[k] for k in steps] if way.compiled else [list(steps)]:
            known = {'way': way.name, 'size': size, 'threads': len(cores), 'task': task}
            slow = self._slow(way, group[0])
            if slow is not None:
                self.records += [{**known, 'steps': k, 'failure': slow} for k in group]
                continue
            label = f'{task}: {way.name}, {size}, {len(cores)} threads, K = {group}'
            print(label, file=sys.stderr)
            cache = self.caches / f'{way.name} {size} {len(cores)} {group} {dtype}'.replace(' ', '')
            found, failure = self._process(
                [
                    *(self.pythons[way], HERE / 'meta_step.py', task, '--way', way.name),
                    *('--size', size, '--steps', *group, '--cores', *cores),
                    *('--dtype', dtype, '--seconds', self.seconds),
                ],
                cache,
                len(cores),
            )
            self.records += [{**known, **record} for record in found]
            missing = group[len(found) :]
            if failure:
                print(f'{label}: {failure}', file=sys.stderr)
                failures = [failure, *[UNTRIED] * len(missing)]
                self.records += [
                    {**known, 'steps': k, 'failure': why} for k, why in zip(missing, failures)
                ]

    def _slow(self, way: Way, steps: int) -> str | None:
        """Return why a measurement is not even started."""
        failed = [
            record['steps']
            for record in self.records
            if record['way'] == way.name and record.get('failure') == OVER
        ]
        return UNTRIED if failed and min(failed) <= steps else None

    def _process(self, command: list, cache: Path, threads: int) -> tuple[list[dict], str | None]:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=HERE,
            env={
                **os.environ,
                **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads)),
                'PYTHONDONTWRITEBYTECODE': '1',
                'TORCHINDUCTOR_CACHE_DIR': str(cache),
                'JAX_COMPILATION_CACHE_DIR': str(cache),
                'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
            },
            stdout=subprocess.PIPE,
            text=True,
            # A compiler has processes of its own, which end with it.
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
