"""Names of tensors, from whatever a user has them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt_utils.state import ModuleState
from torchopt_utils.targets import Stateful, is_optimizer

Names: TypeAlias = 'nn.Module | ModuleState | Stateful | Mapping[str, Any] | Iterable[Any]'


class Named(NamedTuple):
    """A tensor with a name.

    Attributes:
        name: The name.
        tensor: The tensor.
        is_state: Whether it belongs to the state of an optimizer.
    """

    name: str
    tensor: torch.Tensor
    is_state: bool = False


def named_tensors(params: Names) -> Iterator[Named]:
    """Yield the tensors of ``params`` with their names.

    Raises:
        TypeError: ``params`` is not of a kind that has names.
        ValueError: a state was extracted without names.
    """
    entries: Any = params
    if isinstance(params, ModuleState):
        entries = params.visual_contents
        if entries is None:
            raise ValueError('the state has no names: extract it with enable_visual=True')
    elif isinstance(params, nn.Module):
        entries = dict(params.named_parameters())
    elif is_optimizer(params):
        yield from _of_state(params.state_dict())
        return
    elif is_state(params):
        yield from _of_state(params)
        return
    if isinstance(entries, Mapping):
        entries = entries.items()
    if isinstance(entries, (str, torch.Tensor)) or not isinstance(entries, Iterable):
        raise TypeError(
            'params must be a module, a state, an optimizer, a mapping from names to tensors, or '
            f'several of these, got {describe(entries)}'
        )
    for entry in entries:
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            yield from _of_pair(*entry)
        else:
            yield from named_tensors(entry)


def is_state(value: object) -> bool:
    """Tell whether ``value`` is the state of one transformation: a named tuple."""
    return isinstance(value, tuple) and hasattr(value, '_fields')


def _of_pair(name: str, value: Any) -> Iterator[Named]:
    if isinstance(value, torch.Tensor):
        yield Named(name, value)
        return
    is_chain = isinstance(value, tuple) and any(map(is_state, (value, *value)))
    if not (is_chain or isinstance(value, (nn.Module, Mapping)) or is_optimizer(value)):
        raise TypeError(f'params[{name!r}] must be a tensor, got {describe(value)}')
    for inner in named_tensors(value):
        yield inner._replace(name=f'{name.removesuffix(".")}.{inner.name}')


def _of_state(state: Any) -> Iterator[Named]:
    """Yield what can be in a graph: step counts, and numbers, cannot."""
    accessors, leaves, _ = pytree.tree_flatten_with_accessor(state)
    for accessor, leaf in zip(accessors, leaves):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            keys = [getattr(entry, 'field', entry.entry) for entry in accessor]
            # The position in a chain, or of a group, tells a reader nothing.
            while len(keys) > 1 and isinstance(keys[0], int):
                keys.pop(0)
            yield Named('.'.join(map(str, keys)), leaf, is_state=True)
