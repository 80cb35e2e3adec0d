"""Sinusoid regression, the problem of every meta-gradient that is timed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from adapters import Task


class Size(NamedTuple):
    """How many tasks of how many points each, for an MLP of two hidden layers."""

    tasks: int = 25
    width: int = 40
    shots: int = 10

    def __str__(self) -> str:
        return f'{self.tasks} tasks, width {self.width}, {self.shots} shots'


def problem(size: Size, dtype: torch.dtype) -> tuple[nn.Module, Task]:
    """Return the network and all tasks, stacked; the same in every library."""
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(1, size.width),
        nn.ReLU(),
        nn.Linear(size.width, size.width),
        nn.ReLU(),
        nn.Linear(size.width, 1),
    ).to(dtype)
    amplitude = 0.1 + 4.9 * torch.rand(size.tasks, 1, 1, generator=random)
    phase = math.pi * torch.rand(size.tasks, 1, 1, generator=random)
    x, outer_x = 10 * torch.rand(2, size.tasks, size.shots, 1, generator=random) - 5
    y, outer_y = (amplitude * torch.sin(points - phase) for points in (x, outer_x))
    return net, Task(*(points.to(dtype) for points in (x, y, outer_x, outer_y)))
