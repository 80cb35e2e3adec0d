"""The emulated kernels as a library: to compile it, and to call it."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emulation.translate import CSRC, rule_names, translated_tree

CUDA = Path(__file__).parent / 'cuda'
COMPILER = os.environ.get('CXX') or shutil.which('c++')

# Contracted multiplications and additions round differently, and the compiler may choose where.
_COMMON = ['-std=c++17', '-fPIC', '-O1', '-g1', '-ffp-contract=off', '-fvisibility=hidden']
# As nvcc defines them. The second selects the device's half of code that is not the same on both.
_DEVICE = ['-D__CUDACC__', '-D__CUDA_ARCH__=800']


class Problem(NamedTuple):
    """The arguments of ``C.Problem``, in its order."""

    rule: int
    dtype: int
    backward: bool
    apply: bool
    sizes: list[int]
    inputs: list[list[int]]
    outputs: list[list[int]]
    hyper: list[float]
    steps: int
    numbers: int
    positions: list[int]
    lr: int
    lr_stride: int
    lr_grad: int


class Counts(NamedTuple):
    """What a problem made the emulated GPU do."""

    launches: int
    blocks: int
    barriers: int


_Bytes = ctypes.POINTER(ctypes.c_uint8)
_Integers = ctypes.POINTER(ctypes.c_int64)
_Addresses = ctypes.POINTER(ctypes.c_size_t)
_Doubles = ctypes.POINTER(ctypes.c_double)


class _Flat(ctypes.Structure):
    # As FlatProblem in cuda/interface.cpp.
    _fields_ = (
        ('rule', ctypes.c_int32),
        ('dtype', ctypes.c_int32),
        ('backward', ctypes.c_int32),
        ('apply', ctypes.c_int32),
        ('count', ctypes.c_int64),
        ('sizes', _Integers),
        ('input_roles', ctypes.c_int64),
        ('input_present', _Bytes),
        ('inputs', _Addresses),
        ('output_roles', ctypes.c_int64),
        ('output_present', _Bytes),
        ('outputs', _Addresses),
        ('hyper_count', ctypes.c_int64),
        ('hyper', _Doubles),
        ('steps', ctypes.c_size_t),
        ('numbers', ctypes.c_size_t),
        ('positions', _Integers),
        ('lr', ctypes.c_size_t),
        ('lr_stride', ctypes.c_int64),
        ('lr_grad', ctypes.c_size_t),
    )


def _integers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _roles(roles: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    """Return what the struct has for some roles: number, presence, pointers."""
    present = (ctypes.c_uint8 * len(roles))(*[bool(role) for role in roles])
    pointers = [address for role in roles for address in role]
    return len(roles), present, (ctypes.c_size_t * len(pointers))(*pointers)


def build(
    folder: Path,
    rules: Collection[str],
    sanitizers: str = '',
    *,
    csrc: Path = CSRC,
    portable: bool = False,
) -> Path:
    """Compile some rules' kernels, together with the emulation, into a library.

    Args:
        folder: A new folder.
        rules: Names of rules in ``rules.def``.
        sanitizers: The value of the compiler's ``-fsanitize``, for the kernels and the drivers.
        csrc: The sources.
        portable: Switch fibers as it is done where there is no assembly for it.

    Raises:
        RuntimeError: the compiler failed; with what it said.
    """
    translated_tree(folder / 'csrc', rules, csrc)
    link = [f'-fsanitize={sanitizers}'] if sanitizers else []
    checked = [*link, '-fno-sanitize-recover=all'] if sanitizers else []
    driver, kernels = folder / 'csrc/cuda/driver.cu', folder / 'driver.o'
    _compile(f'-I{CUDA}', *_DEVICE, *checked, '-c', '-x', 'c++', str(driver), '-o', str(kernels))
    library = folder / 'emulated.so'
    emulation = Path(_emulation(portable).name).glob('*.o')
    _compile('-shared', *link, str(kernels), *map(str, emulation), '-o', str(library))
    return library


@functools.cache
def _emulation(portable: bool) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with the object files of ``cuda/``, which are the same for all kernels.

    They are compiled without sanitizers: for the thread sanitizer they would be one great race.
    """
    folder = tempfile.TemporaryDirectory(prefix='emulation-')
    flags = [f'-I{CUDA}', f'-I{CSRC / "cuda"}', *(['-DEMULATION_PORTABLE'] if portable else [])]
    for source in CUDA.glob('*.cpp'):
        _compile(*flags, '-c', str(source), '-o', f'{folder.name}/{source.stem}.o')
    return folder


def _compile(*arguments: str) -> None:
    if not COMPILER:
        raise RuntimeError('no C++ compiler: put c++ on PATH, or set CXX')
    command = [COMPILER, *_COMMON, *arguments]
    # A sanitizer that is preloaded for the tests would slow the compiler down.
    env = {name: value for name, value in os.environ.items() if name != 'LD_PRELOAD'}
    finished = subprocess.run(command, capture_output=True, text=True, env=env)
    if finished.returncode:
        raise RuntimeError(f'{" ".join(command)}\n{finished.stderr}')


class Library:
    """The emulated kernels of a library that :func:`build` has made."""

    def __init__(self, path: Path) -> None:
        self.rules = rule_names(path.parent / 'csrc')
        self._library = ctypes.CDLL(str(path))
        self._library.emulation_scratch.restype = ctypes.c_int64
        self._library.emulation_run.restype = ctypes.c_char_p
        self._library.emulation_obstacle.restype = ctypes.c_char_p

    def set_up(self, seed: int, processors: int, blocks_per_processor: int) -> None:
        """Choose an order of threads and blocks, and how many blocks run at once."""
        self._library.emulation_set_up(seed, processors, blocks_per_processor)

    def scratch(self, sizes: Sequence[int]) -> int:
        """Return how many doubles :meth:`run` needs for the cotangents of learning rates."""
        doubles: int = self._library.emulation_scratch(_integers(sizes), ctypes.c_int64(len(sizes)))
        return doubles

    def run(
        self, problem: Problem, *, device: int = 0, stream: int = 0, scratch: int = 0
    ) -> Counts:
        """Solve a problem, whose addresses are of this process.

        Raises:
            RuntimeError: a launch failed, or the emulated GPU found the program not valid.
        """
        flat = _Flat(
            problem.rule,
            problem.dtype,
            problem.backward,
            problem.apply,
            len(problem.sizes),
            _integers(problem.sizes),
            *_roles(problem.inputs),
            *_roles(problem.outputs),
            len(problem.hyper),
            (ctypes.c_double * len(problem.hyper))(*problem.hyper),
            problem.steps,
            problem.numbers,
            _integers(problem.positions),
            problem.lr,
            problem.lr_stride,
            problem.lr_grad,
        )
        counts = (ctypes.c_int64 * 3)()
        message = self._library.emulation_run(
            ctypes.byref(flat),
            device,
            ctypes.c_size_t(stream),
            ctypes.c_size_t(scratch),
            counts,
        )
        if message:
            raise RuntimeError(message.decode())
        return Counts(*counts)

    def obstacle(self, device: int) -> str:
        """Return ``C.cuda_obstacle(device)``."""
        found: bytes = self._library.emulation_obstacle(device)
        return found.decode()
