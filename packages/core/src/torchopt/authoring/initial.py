"""Initial values of states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.rates import rates_as_numbers, rates_of
from torchopt.authoring.steps import as_float, zero_steps
from torchopt.typing import LearningRate, Params

Shape = Callable[[torch.Size], Sequence[int]]


def filled_like(
    params: Params,
    value: LearningRate = 0.0,
    shape: Shape | None = None,
    *,
    requires_grad: bool = False,
) -> Any:
    """Return a tree of new tensors like ``params``, each filled with ``value``.

    If a value is a tensor, the result is differentiable with respect to it.

    Args:
        params: Tree of tensors, or None for one that is absent.
        value: A number, a tensor, a tree of them with the structure of ``params``, or a schedule,
            whose first value counts.
        shape: The shape of each new tensor, by the shape of the parameter.
        requires_grad: Let the new tensors require grad.
    """
    leaves, structure = pytree.tree_flatten(params, none_is_leaf=True)
    first = torch.zeros((), dtype=torch.float64)
    values = rates_of(value, first, structure, leaves, 'params')

    def fill(leaf: torch.Tensor | None, value: Any) -> torch.Tensor | None:
        if leaf is None:
            return None
        like = leaf if shape is None else leaf.new_empty(shape(leaf.shape))
        if not isinstance(value, torch.Tensor):
            return torch.full_like(like, value, requires_grad=requires_grad)
        # A 0-dim value of a wider dtype would promote a 0-dim leaf.
        return (torch.zeros_like(like, requires_grad=requires_grad) + value).to(like.dtype)

    return pytree.tree_unflatten(structure, [*map(fill, leaves, values)])


def filled_numbers(params: Params, value: LearningRate) -> torch.Tensor:
    """Return a new float64 vector with one number for each leaf of ``params``.

    Args:
        params: Tree of tensors, or None for one that is absent.
        value: A scalar, or a schedule, whose first value counts.
    """
    leaves, structure = pytree.tree_flatten(params, none_is_leaf=True)
    zeros = as_float(zero_steps(params))
    return zeros + rates_as_numbers(value, zeros.new_zeros(()), structure, leaves, 'params')
