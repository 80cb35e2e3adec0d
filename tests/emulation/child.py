"""``python -m emulation`` in a process that a sanitizer may end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulation.library import COMPILER

_RUNTIMES = {'address': 'libasan.so', 'undefined': 'libubsan.so', 'thread': 'libtsan.so'}


def solve_in_child(library: Path, sanitizers: str, *arguments: str) -> tuple[int, str]:
    """Solve all cases with a library that was built with sanitizers; return status and output.

    Raises:
        RuntimeError: the compiler has no runtime of a sanitizer.
    """
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        'OMP_NUM_THREADS': '1',
        # CPython never frees some allocations.
        'ASAN_OPTIONS': 'detect_leaks=0',
        'UBSAN_OPTIONS': 'print_stacktrace=1',
        'TSAN_OPTIONS': 'halt_on_error=1',
    }
    if sanitizers:
        # Python itself has none of them, so their runtimes must be there before it.
        files = [_file(_RUNTIMES[name]) for name in sanitizers.split(',')]
        env['LD_PRELOAD'] = ' '.join(files)
    command = [sys.executable, '-m', 'emulation', str(library), *arguments]
    finished = subprocess.run(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return finished.returncode, finished.stdout


def _file(runtime: str) -> str:
    command = [str(COMPILER), f'-print-file-name={runtime}']
    file = subprocess.check_output(command, text=True).strip()
    if not Path(file).is_absolute():
        raise RuntimeError(f'{COMPILER} has no {runtime}: set CXX to a GCC that has its sanitizers')
    return file
