"""Learning rates that a rule needs in another place than as a factor of the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.columns import flatten_like
from torchopt.authoring.describe import describe
from torchopt.authoring.steps import as_float
from torchopt.typing import LearningRate, TensorTree


def rates_at(
    lr: LearningRate,
    steps: torch.Tensor,
    structure: pytree.PyTreeSpec,
    leaves: Sequence[torch.Tensor | None],
) -> list[Any]:
    """Return the learning rate of every leaf: a number, or a tensor that broadcasts to the leaf.

    Args:
        lr: A scalar, a schedule, or a tree of rates with the structure of the leaves.
        steps: Steps taken by each leaf so far, an int64 vector. A schedule gets the largest count.
        structure: The structure of the tree of leaves.
        leaves: The leaves.

    Raises:
        ValueError: a tree of rates has another structure, or a rate does not broadcast to its leaf.
    """
    if checks.is_function(lr):
        lr = lr(as_float(steps.amax()) if steps.numel() else torch.zeros((), dtype=torch.float64))
    if not checks.is_tree(lr) and not (isinstance(lr, torch.Tensor) and lr.dim()):
        return [lr] * len(leaves)
    (rates,) = flatten_like(structure, [('lr', with_tensors(lr))])
    for position, (rate, leaf) in enumerate(zip(rates, leaves)):
        if leaf is not None and torch.broadcast_shapes(rate.shape, leaf.shape) != leaf.shape:
            where = structure.accessors()[position].codify('lr')
            raise ValueError(f'{where} does not fit its parameter: {describe(rate)}')
    return rates


def with_tensors(rates: TensorTree) -> Any:
    """Return a tree of rates with every number replaced by a 0-dim tensor.

    ``torch.compile`` cannot flatten a tree of constants.
    """
    leaves, structure = pytree.tree_flatten(rates, none_is_leaf=True)
    return pytree.tree_unflatten(
        structure,
        [
            torch.tensor(leaf, dtype=torch.float64, device='cpu')
            if isinstance(leaf, (int, float))
            else leaf
            for leaf in leaves
        ],
    )
