"""Loads the compiled kernels, or says why they can't be and how to mend it."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

# The kernels share the OpenMP runtime that torch brings, which must be loaded first.
import torch


def _load() -> ModuleType:
    try:
        return import_module('torchopt_accel._C')
    except ImportError as error:
        raise ImportError(_explain(error)) from error


def _explain(error: ImportError) -> str:
    built = sorted(path.name for path in Path(__file__).parent.glob('_C*'))
    return (
        f'torchopt_accel cannot load its kernels: {error}\n'
        f'  built: {", ".join(built) or "nothing: the package was not built"}\n'
        '  for: CPython >= 3.10 with the limited API, any torch >= 2.4\n'
        f'  found: {sys.implementation.name} {platform.python_version()} on '
        f'{platform.system()} {platform.machine()}, torch {torch.__version__}\n'
        '  to mend it: pip install --force-reinstall nanobind-backend torchopt-accel, with '
        '--no-binary torchopt-accel to build it on this machine'
    )


C = _load()
