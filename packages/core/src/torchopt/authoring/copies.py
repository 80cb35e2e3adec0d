"""Copies of the parameters that a state holds."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.columns import in_container_of
from torchopt.authoring.per_tensor import map_updates
from torchopt.typing import Params, TensorTree


def copies_of(params: Params) -> Any:
    """Return copies without a graph, for ``init``.

    With the graph of the parameters, a state could never be written in place. :func:`current`
    gives the graph back at the first update.
    """
    return pytree.tree_map(lambda leaf: leaf.detach().clone(), params)


def current(name: str, copies: TensorTree, steps: torch.Tensor, params: Params) -> Any:
    """Return the copies, and at the first update the parameters, which they are copies of then.

    So a derivative by the initial parameters is whole.

    Args:
        name: The name of the copies in messages.
        copies: What the state holds.
        steps: Number of updates so far, a 0-dim int64 tensor.
        params: The parameters that ``update`` was given.
    """

    def choose(param: torch.Tensor, copy: torch.Tensor) -> torch.Tensor:
        return torch.where((steps == 0).to(param.device), param, copy)

    return in_container_of(copies, map_updates(choose, params, {name: copies}))
