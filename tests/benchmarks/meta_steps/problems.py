"""What is adapted to tasks: networks on sinusoids, and Conv4 on images of new classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from adapters import Task
from problems import SINUSOIDS, sinusoids

TASKS, CLASSES, CHANNELS, PIXELS = 4, 5, 64, 28


class Problem(NamedTuple):
    """One network, its tasks and the inner optimizer.

    Attributes:
        make: Returns the network and all tasks, stacked, in a dtype.
        rule: ``'adam'`` or ``'sgd'``.
        is_deep: Whether it is measured with 5 steps and the least number of threads only.
    """

    make: Callable[[torch.dtype], tuple[nn.Module, Task]]
    rule: str
    is_deep: bool = False

    def lengths(self, chosen: list[int]) -> list[int]:
        """Return the numbers of inner steps, of those chosen in ascending order."""
        return [about_five(chosen)] if self.is_deep else chosen

    def threads(self, chosen: list[int]) -> list[int]:
        """Return the numbers of threads, of those chosen in ascending order."""
        return chosen[:1] if self.is_deep else chosen


def about_five(chosen: list[int]) -> int:
    """Return 5, or the nearest smaller number of those chosen in ascending order."""
    return max((k for k in chosen if k <= 5), default=chosen[0])


def conv4(dtype: torch.dtype) -> tuple[nn.Module, Task]:
    """Return the network of Finn et al. (MAML, 2017) and its tasks: 5-way, 1-shot, 28 × 28.

    The images are generated: each class is noise, and each of its images adds more noise.
    """
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    blocks = [
        layer
        for inputs in (1, *[CHANNELS] * 3)
        for layer in (
            nn.Conv2d(inputs, CHANNELS, 3, padding=1),
            # MAML normalizes by the batch at hand, always.
            nn.BatchNorm2d(CHANNELS, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
    ]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(CHANNELS, CLASSES)).to(dtype)
    size = TASKS, CLASSES, 1, PIXELS, PIXELS
    classes = torch.randn(size, generator=random)
    x, outer_x = classes + torch.randn(2, *size, generator=random)
    labels = torch.arange(CLASSES).repeat(TASKS, 1)
    return net, Task(x.to(dtype), labels, outer_x.to(dtype), labels)


PROBLEMS = {
    **{name: Problem(partial(sinusoids, size), 'adam') for name, size in SINUSOIDS.items()},
    'Conv4, SGD': Problem(conv4, 'sgd', is_deep=True),
    'Conv4, Adam': Problem(conv4, 'adam', is_deep=True),
}
