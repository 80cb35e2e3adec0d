"""Loads the compiled kernels, or says why they can't be and how to mend it."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# The kernels share the OpenMP runtime that torch brings, which must be loaded first.
import torch

_MODULE = 'torchopt_accel._C'


def _load() -> Any:
    try:
        return import_module(_MODULE)
    except ImportError as error:
        raise ImportError(_explain(error), name=_MODULE) from error


def _explain(error: ImportError) -> str:
    mend = (
        'pip install --force-reinstall --no-deps nanobind-backend torchopt-accel\n'
        '    or, to build it on this machine, the same with --no-binary torchopt-accel'
    )
    return (
        f'torchopt_accel cannot load its kernels: {error}\n'
        f'  built for: {_built_for()}\n'
        f'  found: {sys.implementation.name} {platform.python_version()}, {platform.system()} '
        f'{platform.machine()}, torch {torch.__version__}\n'
        f'  to mend it: {mend}'
    )


def _built_for() -> str:
    spec = find_spec(_MODULE)
    if spec is None:
        return 'nothing: there is no compiled module beside the Python files'
    try:
        from torchopt_accel import _build
    except ImportError:
        return f'unknown: {spec.origin} came without its description'
    return (
        f'CPython 3.10 or later, {_build.SYSTEM}, any torch 2.4 or later ({spec.origin}, by '
        f'{_build.COMPILER}, CUDA architectures: {_build.CUDA_ARCHITECTURES or "none"})'
    )


if TYPE_CHECKING:
    from torchopt_accel import _C

    C = _C
else:
    C = _load()
