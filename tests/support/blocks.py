"""A small network of residual blocks, with and without rematerialization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchopt.unrolling import remat

DTYPE = torch.float64
WIDTH = 4


class Residual(nn.Module):
    """A block with two linear layers, a normalization and a residual."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def pair(
    make: Callable[[], nn.Module] = Residual, count: int = 3, **options: Any
) -> tuple[nn.Sequential, nn.Sequential]:
    """A plain stack of blocks, and a stack of the same modules under ``remat``."""
    torch.manual_seed(0)
    blocks = [make().to(DTYPE) for _ in range(count)]
    return nn.Sequential(*blocks), nn.Sequential(*(remat(block, **options) for block in blocks))


def assert_equal(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Assert equality up to rounding, of tensors whose entries may differ much in size."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        largest = 1 + b.detach().abs().max().item()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * largest)
