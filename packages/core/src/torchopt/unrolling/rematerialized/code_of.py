"""What a block does, apart from its tensors, as a value: blocks of equal values do the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from torch import nn

from torchopt.unrolling.context.attributes import is_plain

# Tensors are arguments, and submodules are looked at one by one.
_PARTS = ('_parameters', '_buffers', '_modules')
_MAPPINGS = (dict, OrderedDict)
_CONTAINERS = (*_MAPPINGS, list, tuple, set, frozenset)


class _Same:
    """Equal to another one of the same object alone, which it keeps alive."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def code_of(fn: Any) -> Hashable:
    """Return what a module or a function does, as a value.

    Modules are alike if they have the same class, the same immutable attributes, submodules that
    are alike under the same names, and the very same other objects. A function is alike to itself,
    and to another one with the same code that captures the very same objects.
    """
    if isinstance(fn, nn.Module):
        own = vars(fn)
        return (
            type(fn),
            tuple(
                (key, _value_of(value, _Same)) for key, value in own.items() if key not in _PARTS
            ),
            tuple(
                (key, None if part is None else code_of(part)) for key, part in fn._modules.items()
            ),
        )
    if not hasattr(fn, '__code__'):
        return _Same(fn)
    captured = [cell.cell_contents for cell in fn.__closure__ or ()]
    values = (*captured, fn.__defaults__, fn.__kwdefaults__)
    return fn.__code__, _Same(fn.__globals__), tuple(_value_of(value, _Same) for value in values)


def value_of(value: Any) -> Hashable:
    """Return a constant so that 1, 1.0 and True differ, and objects are equal to themselves."""
    return _value_of(value, _Same)


def shared_parts(module: nn.Module) -> Iterator[Any]:
    """Yield the objects that :func:`code_of` names by their identity."""
    found: list[Any] = []

    def note(value: Any) -> Hashable:
        found.append(value)
        return None

    for owner in module.modules():
        for key, value in vars(owner).items():
            if key not in _PARTS:
                _value_of(value, note)
    yield from found


def _value_of(value: Any, other: Callable[[Any], Hashable]) -> Hashable:
    """Return a value that is equal for values that can take each other's place."""
    kind = type(value)
    if kind in _CONTAINERS:
        if kind in (set, frozenset) and value:
            return other(value)
        parts = value.items() if kind in _MAPPINGS else value
        return kind, tuple([_value_of(part, other) for part in parts])
    if is_plain(value):
        return kind, repr(value) if isinstance(value, (float, complex)) else value
    return other(value)
