"""Types that appear in public signatures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import torch
from optree import PyTree as PyTree
from torch import Size as Size
from torch import Tensor as Tensor

if TYPE_CHECKING:
    from torchopt.base import ChainedGradientTransformation as ChainedGradientTransformation
    from torchopt.base import EmptyState as EmptyState
    from torchopt.base import GradientTransformation as GradientTransformation
    from torchopt.base import UninitializedState as UninitializedState

# Classes that are annotations, too. Their module needs this one: they are looked up when used.
_OF_BASE = (
    'ChainedGradientTransformation',
    'EmptyState',
    'GradientTransformation',
    'UninitializedState',
)

__all__ = [
    'ChainedGradientTransformation',
    'Device',
    'EmptyState',
    'GradientTransformation',
    'Hook',
    'InitFn',
    'LearningRate',
    'ListOfOptionalTensors',
    'ListOfTensors',
    'Mask',
    'ModuleTensorContainers',
    'Numeric',
    'OptState',
    'OptionalTensor',
    'OptionalTensorOrOptionalTensors',
    'OptionalTensorTree',
    'Params',
    'ParamsLike',
    'PyTree',
    'Scalar',
    'ScalarOrSchedule',
    'Schedule',
    'SequenceOfOptionalTensors',
    'SequenceOfTensors',
    'Size',
    'Tensor',
    'TensorContainer',
    'TensorOrTensors',
    'TensorTree',
    'TreeT',
    'TupleOfOptionalTensors',
    'TupleOfTensors',
    'UninitializedState',
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
"""A tree whose structure is preserved: the result has the structure of the argument."""

Scalar: TypeAlias = float | torch.Tensor
"""A Python number, or a 0-dim floating-point tensor, which may require grad."""

Schedule: TypeAlias = Callable[[torch.Tensor], Scalar | TensorTree]
"""Maps the number of steps taken so far (a 0-dim float64 tensor) to a value.

A learning rate's may also return a tree of rates with the structure of the parameters.
"""

ScalarOrSchedule: TypeAlias = Scalar | Schedule

LearningRate: TypeAlias = Scalar | Schedule | TensorTree
"""A scalar, a schedule, or a tree of scalars and tensors with the structure of the parameters."""

Mask: TypeAlias = TensorTree | Callable[[TensorTree], TensorTree]
"""A tree of bools with the structure of the parameters, or a function from parameters to one."""

ParamsLike: TypeAlias = Iterable[torch.Tensor] | Iterable[Mapping[str, Any]]
"""Tensors, or dictionaries with the key ``params`` and the hyperparameters of a group."""

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


# Other names for trees and collections, under which users of TorchOpt annotate.
Numeric: TypeAlias = Scalar
Device: TypeAlias = torch.device | str | int
OptionalTensor: TypeAlias = Tensor | None
ListOfTensors: TypeAlias = list[Tensor]
TupleOfTensors: TypeAlias = tuple[Tensor, ...]
SequenceOfTensors: TypeAlias = Sequence[Tensor]
TensorOrTensors: TypeAlias = Tensor | SequenceOfTensors
OptionalTensorTree: TypeAlias = TensorTree
ListOfOptionalTensors: TypeAlias = list[OptionalTensor]
TupleOfOptionalTensors: TypeAlias = tuple[OptionalTensor, ...]
SequenceOfOptionalTensors: TypeAlias = Sequence[OptionalTensor]
OptionalTensorOrOptionalTensors: TypeAlias = OptionalTensor | SequenceOfOptionalTensors
TensorContainer: TypeAlias = dict[str, OptionalTensor]
ModuleTensorContainers: TypeAlias = tuple[TensorContainer, ...]

if not TYPE_CHECKING:  # type checkers know every name: to them this would excuse misspelt ones

    def __getattr__(name: str) -> Any:
        if name not in _OF_BASE:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        return getattr(importlib.import_module('torchopt.base'), name)
