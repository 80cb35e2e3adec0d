"""The compiled module ``C``, and on which devices its kernels run.

Where the module can't be loaded, importing this says why and how to mend it.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# The kernels share the OpenMP runtime that torch brings. torch must load it first.
import torch

Devices = str | torch.device | Iterable[str | torch.device] | None

_MODULE = 'torchopt_accel._C'

# GPUs that kernels have been found to run on. An obstacle may pass, such as full memory.
_RUNS_ON: set[int] = set()


def available(devices: Devices = None) -> bool:
    """Tell whether kernels run on every one of ``devices``.

    Args:
        devices: A device or several; by default the CPU and, where there is one, the GPU.
    """
    if devices is None:
        devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    if isinstance(devices, (str, torch.device)):
        devices = [devices]
    return all(runs_on(torch.device(device)) for device in devices)


def runs_on(device: torch.device) -> bool:
    """Tell whether kernels run on a device."""
    return not obstacle(device)


def obstacle(device: torch.device) -> str:
    """Say why no kernel runs on a device; return an empty string if kernels run there.

    Args:
        device: A device without an index is the current one of its type.
    """
    if device.type == 'cpu':
        return ''
    if device.type != 'cuda':
        return f'there are no kernels for {device.type}'
    return _cuda_obstacle(device.index)


def _cuda_obstacle(index: int | None) -> str:
    if not HAS_CUDA:
        return 'this build has no CUDA kernels'
    if torch.version.cuda is None:
        return 'this torch is built without CUDA'
    if not torch.cuda.is_available():
        return 'torch finds no GPU'
    if index is not None and index >= torch.cuda.device_count():
        return f'the number of GPUs is {torch.cuda.device_count()}'
    try:
        return _obstacle_of(torch.cuda.current_device() if index is None else index)
    except RuntimeError as error:
        # torch raises, for example, in a fork of a process that has used CUDA.
        return str(error)


def _obstacle_of(index: int) -> str:
    if index in _RUNS_ON:
        return ''
    # torch's own guard makes no context on a device that is not used.
    with torch.cuda.device(index):
        found: str = C.cuda_obstacle(index)
    if not found:
        _RUNS_ON.add(index)
    return found


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

HAS_CUDA = hasattr(C, 'run_on_cuda')
