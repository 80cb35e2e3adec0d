"""First values of states."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.typing import Params, Scalar


def filled_like(params: Params, value: Scalar = 0.0, *, requires_grad: bool = False) -> Any:
    """Return a tree of new tensors like ``params``, each filled with ``value``.

    They are differentiable with respect to a ``value`` that is a tensor.
    """

    def fill(leaf: torch.Tensor | None) -> torch.Tensor | None:
        if leaf is None:
            return None
        if not isinstance(value, torch.Tensor):
            return torch.full_like(leaf, value, requires_grad=requires_grad)
        # A 0-dim value of a wider dtype would widen a 0-dim leaf.
        return (torch.zeros_like(leaf, requires_grad=requires_grad) + value).to(leaf.dtype)

    return pytree.tree_map(fill, params, none_is_leaf=True)
