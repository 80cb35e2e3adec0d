"""Where the kernels really run."""

from __future__ import annotations

from collections.abc import Iterable

import torch

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
    return all(runs_on(torch.device(device)) and _exists(device) for device in devices)


def runs_on(device: torch.device) -> bool:
    """Tell whether there are kernels for the device, which exists."""
    return device.type == 'cpu' or (device.type == 'cuda' and HAS_CUDA)


def _exists(device: str | torch.device) -> bool:
    device = torch.device(device)
    if device.type == 'cpu':
        return True
    if not torch.cuda.is_available():
        return False
    return device.index is None or device.index < torch.cuda.device_count()
