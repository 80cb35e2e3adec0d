"""A choice between two trees by a tensor, without a branch that would wait for the device."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.typing import TensorTree


def choose(condition: torch.Tensor, yes: TensorTree, no: TensorTree) -> Any:
    """Return the leaves of ``yes`` where a 0-dim condition holds, else those of ``no``.

    The derivative of the other tree's leaves is 0. Where one of them may not be finite, replace it
    before: a derivative of NaN times 0 is NaN.

    Args:
        condition: A 0-dim bool tensor.
        yes: A tree.
        no: A tree of the same structure, shapes and dtypes.
    """

    def pick(a: Any, b: Any) -> Any:
        if a is b or not isinstance(a, torch.Tensor):
            return a
        return torch.where(condition.to(a.device), a, b)

    return pytree.tree_map(pick, yes, no, none_is_leaf=True)
