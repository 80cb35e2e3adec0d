"""The sum of one tensor over ranks, differentiable to any order and under every transform."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from torchopt.authoring.torch_internals import process_group
from torchopt.unrolling.context.ranks import note_tangents

# The operator has no derivative of its own: :class:`Sum` gives it one. It exists because a compiled
# graph holds operators, and no calls of torch.distributed.
_LIBRARY = torch.library.Library('torchopt', 'FRAGMENT')
_LIBRARY.define('sum_over_ranks(Tensor x, str group) -> Tensor')


def _sum(x: torch.Tensor, group: str) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=process_group(group))
    return total


def _shape_of_sum(x: torch.Tensor, group: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_LIBRARY.impl('sum_over_ranks', _sum, 'CompositeExplicitAutograd')
_LIBRARY.impl('sum_over_ranks', _shape_of_sum, 'Meta')


class Sum(torch.autograd.Function):
    r"""``apply(x, group)`` is :math:`y = \sum_r x_r`, the same on every rank.

    What is differentiated is the sum :math:`L = \sum_r L_r(y)` of the losses of all ranks. With
    :math:`\bar y_r = \partial L_r / \partial y` the cotangent of :math:`x_r` is
    :math:`\sum_r \bar y_r`: the sum is its own transpose, and the tangent of :math:`y` is the sum
    of the tangents.
    """

    @staticmethod
    def forward(x: torch.Tensor, group: str) -> torch.Tensor:
        """Sum ``x`` over the ranks of the group of this name."""
        total: torch.Tensor = torch.ops.torchopt.sum_over_ranks(x, group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Remember the group."""
        ctx.group = inputs[1]

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, cotangent: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Return the sum of the cotangents."""
        return sum_tensor(cotangent, ctx.group), None

    @staticmethod
    def jvp(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, tangent: torch.Tensor, _: None
    ) -> torch.Tensor:
        """Return the sum of the tangents."""
        note_tangents(ctx.group)
        return sum_tensor(tangent, ctx.group)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, group: str
    ) -> tuple[torch.Tensor, int | None]:
        """Sum all examples of a batch at once."""
        return sum_tensor(x, group), in_dims[0]


def sum_tensor(x: torch.Tensor, group: str) -> torch.Tensor:
    """Return the sum of ``x`` over the ranks of the group of this name; '' is the default group."""
    apply: Any = Sum.apply
    total: torch.Tensor = apply(x, group)
    return total


# Dynamo would look into the function, and lose its derivative under the transforms that it traces.
torch.compiler.allow_in_graph(Sum)
