"""Types that appear in public signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import torch

__all__ = [
    'Hook',
    'InitFn',
    'LearningRate',
    'Mask',
    'OptState',
    'Params',
    'ParamsLike',
    'Scalar',
    'Schedule',
    'TensorTree',
    'TreeT',
    'UpdateFn',
    'Updates',
]

# A tree of tensors: any nesting of tuples, lists, dictionaries, named tuples and registered
# dataclasses with tensors or None at its leaves. The type system has no useful name for it.
TensorTree: TypeAlias = Any
Params: TypeAlias = TensorTree
Updates: TypeAlias = TensorTree
OptState: TypeAlias = Any

TreeT = TypeVar('TreeT')
"""A tree that comes back with the structure that it went in with."""

Scalar: TypeAlias = float | torch.Tensor
"""A Python number, or a 0-dim floating-point tensor, which may require grad."""

Schedule: TypeAlias = Callable[[torch.Tensor], Scalar | TensorTree]
"""Maps the number of steps taken so far (a 0-dim float64 tensor) to a value.

A learning rate's may also return a tree of rates with the structure of the parameters.
"""

LearningRate: TypeAlias = Scalar | Schedule | TensorTree
"""A scalar, a schedule, or a tree of scalars and tensors with the structure of the parameters."""

Mask: TypeAlias = TensorTree | Callable[[TensorTree], TensorTree]
"""A tree of bools with the structure of the parameters, or a function that makes one from them."""

ParamsLike: TypeAlias = Iterable[torch.Tensor] | Iterable[Mapping[str, Any]]
"""Tensors, or dictionaries with the key ``params`` and hyperparameters of that group."""

Hook: TypeAlias = Callable[[torch.Tensor], torch.Tensor | None]
"""Takes a gradient; returns its replacement, or None to keep it."""

InitFn: TypeAlias = Callable[[Params], OptState]


class UpdateFn(Protocol):
    """Maps updates and a state to new updates and the next state."""

    def __call__(
        self,
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        """Return the new updates and the next state."""
        ...
