"""Where the kernels really run."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch

from torchopt_accel._extension import C
from torchopt_accel.launch import HAS_CUDA

Devices = str | torch.device | Iterable[str | torch.device] | None


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
    """Say why no kernel runs on a device; nothing if they do.

    Args:
        device: One without an index is the current one of its type.
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
        # For one in a fork of a process that has used CUDA.
        return str(error)


@functools.cache
def _obstacle_of(index: int) -> str:
    # With its own guard torch remembers not to make a context on a device that is not used.
    with torch.cuda.device(index):
        obstacle: str = C.cuda_obstacle(index)
        return obstacle
