"""Cotangents as they come in an unroll: from the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def pulled(
    outputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Return the products of ``cotangents`` with the derivatives of ``outputs`` by ``inputs``.

    ``torch.autograd.grad`` takes cotangents, too, but compares every one with its output in Python,
    at some 3 µs each: half of what the derivative of a small fused step takes.
    """
    return list(torch.autograd.grad(_Seed.apply(cotangents, *outputs), inputs))


class _Seed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cotangents: Sequence[torch.Tensor], *outputs: torch.Tensor) -> Any:
        ctx.cotangents = cotangents
        return torch.zeros((), device=outputs[0].device)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> Any:
        return None, *ctx.cotangents
