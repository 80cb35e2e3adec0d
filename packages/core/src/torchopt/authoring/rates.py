"""Learning rates: scalars, schedules and trees of rates, leaf by leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.columns import flatten_like
from torchopt.authoring.describe import describe
from torchopt.typing import LearningRate, Scalar, TensorTree


def rates_of(
    lr: LearningRate,
    count: torch.Tensor,
    structure: pytree.PyTreeSpec,
    leaves: Sequence[torch.Tensor | None],
    what: str = 'updates',
) -> list[Any]:
    """Return the learning rate of every leaf: a number, or a tensor that broadcasts to the leaf.

    Args:
        lr: A scalar, a schedule, or a tree of rates with the structure of the leaves.
        count: The number of steps that a schedule gets, a 0-dim float64 tensor.
        structure: The structure of the tree of leaves.
        leaves: The leaves.
        what: The name of the tree in messages.

    Raises:
        ValueError: a tree of rates has another structure, or a rate does not broadcast to its leaf.
    """
    if checks.is_function(lr):
        lr = lr(count)
    if isinstance(lr, torch.Tensor) and lr.dim():
        require_one_tensor(structure, lr, 'lr', what)
    elif not checks.is_tree(lr):
        return [lr] * len(leaves)
    (rates,) = flatten_like(structure, [('lr', with_tensors(lr))], what)
    for position, (rate, leaf) in enumerate(zip(rates, leaves)):
        if leaf is not None and not _broadcasts(rate.shape, leaf.shape):
            accessor = structure.accessors()[position]
            raise ValueError(
                f'{accessor.codify("lr")} does not fit {accessor.codify(what)} of shape '
                f'{tuple(leaf.shape)}: {describe(rate)}'
            )
    return rates


def is_shared(lr: LearningRate) -> bool:
    """Tell whether all leaves share one rate: a scalar, or a schedule."""
    return not (checks.is_tree(lr) or (isinstance(lr, torch.Tensor) and lr.dim()))


def rates_as_numbers(
    lr: LearningRate,
    count: torch.Tensor,
    structure: pytree.PyTreeSpec,
    leaves: Sequence[torch.Tensor | None],
    what: str = 'updates',
) -> Scalar:
    """Return one rate for each leaf: the number that they share, or a vector on count's device.

    Args:
        lr: A scalar, or a schedule of scalars or of trees of them.
        count: The number of steps that a schedule gets, a 0-dim float64 tensor.
        structure: The structure of the tree of leaves.
        leaves: The leaves.
        what: The name of the tree in messages.

    Raises:
        ValueError: a tree of rates has another structure, or a rate is not a scalar.
    """
    value: Any = lr(count) if checks.is_function(lr) else lr
    if is_shared(value):
        return beside(count, value)
    rates = [0.0 if x is None else x for x in rates_of(value, count, structure, leaves, what)]
    for position, rate in enumerate(rates):
        if isinstance(rate, torch.Tensor) and rate.dim():
            where = structure.accessors()[position].codify('lr')
            raise ValueError(f'{where} must be a scalar, got {describe(rate)}')
    return torch.stack(
        [torch.as_tensor(rate, dtype=count.dtype, device=count.device) for rate in rates]
    )


def beside(other: torch.Tensor, scalar: Scalar) -> Scalar:
    """Return a scalar that can be combined with ``other``, a tensor on any device."""
    if not isinstance(scalar, torch.Tensor) or scalar.device.type == 'cpu':
        return scalar
    return scalar.to(other.device)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    lengths = zip(reversed(shape), reversed(to))
    return len(shape) <= len(to) and all(length in (1, other) for length, other in lengths)


def require_one_tensor(
    structure: pytree.PyTreeSpec, factor: torch.Tensor, name: str, what: str = 'updates'
) -> None:
    """Raise ValueError if a tensor of rates stands where there are several leaves."""
    if not structure.is_leaf():
        raise ValueError(
            f'{name} and {what} differ in structure: {name} is {describe(factor)}. Pass a 0-dim '
            'tensor for all parameters, or a tree with the structure of the parameters'
        )


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
