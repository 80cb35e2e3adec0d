"""What several benchmarks share: sinusoid tasks, and cotangents as an unroll delivers them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from adapters import Task


class Size(NamedTuple):
    """The number of tasks, the width of an MLP with two hidden layers, the points per task."""

    tasks: int
    width: int
    shots: int

    def __str__(self) -> str:
        return f'{self.tasks} tasks, width {self.width}, {self.shots} shots'


SINUSOIDS = {
    'small': Size(tasks=25, width=40, shots=10),
    'large': Size(tasks=8, width=256, shots=32),
}


def sinusoids(size: Size, dtype: torch.dtype) -> tuple[nn.Module, Task]:
    """Return the network and all regression tasks, stacked; the same in every library."""
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


def vjp(
    outputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
) -> list[torch.Tensor | None]:
    """Return the vector-Jacobian products; the cotangents come from the graph, as in an unroll.

    None is the product for an input without a derivative, such as Rprop's last gradient.

    ``torch.autograd.grad`` accepts cotangents too, but compares each with its output in Python, at
    about 3 µs per tensor: half the time of the derivative of a small fused step.
    """
    total = _Seed.apply(cotangents, *outputs)
    return list(torch.autograd.grad(total, inputs, allow_unused=True))


class _Seed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cotangents: Sequence[torch.Tensor], *outputs: torch.Tensor) -> Any:
        ctx.cotangents = cotangents
        return torch.zeros((), device=outputs[0].device)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> Any:
        return None, *ctx.cotangents
