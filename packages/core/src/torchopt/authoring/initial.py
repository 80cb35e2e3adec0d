"""Initial values of states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
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
    if checks.is_function(value):
        value = value(torch.zeros((), dtype=torch.float64))

    def fill(value: Any, leaf: torch.Tensor | None) -> torch.Tensor | None:
        if leaf is None:
            return None
        like = leaf if shape is None else leaf.new_empty(shape(leaf.shape))
        if not isinstance(value, torch.Tensor):
            return torch.full_like(like, value, requires_grad=requires_grad)
        # A 0-dim value of a wider dtype would promote a 0-dim leaf.
        return (torch.zeros_like(like, requires_grad=requires_grad) + value).to(like.dtype)

    if checks.is_tree(value):
        return pytree.tree_map(fill, value, params, none_is_leaf=True)
    return pytree.tree_map(lambda leaf: fill(value, leaf), params, none_is_leaf=True)
