"""All objects of given types that a step can reach: through closures, attributes and containers."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch

from torchopt.authoring.origin import Origin

# Objects that are looked at before the search ends, and elements of one container.
_MOST_OBJECTS = 10_000
_MOST_ELEMENTS = 1_000

# Neither holds what is searched for, or each leads to a whole program.
_SKIPPED = (
    torch.Tensor,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    torch.dtype,
    torch.device,
    types.ModuleType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    # Descriptions: a function that they hold is not called, and what it uses is found otherwise.
    inspect.Signature,
    Origin,
)
_BUILT_IN = {dict, OrderedDict, list, tuple, set, frozenset}
_PARTS_OF_MODULES = {'_parameters', '_buffers', '_modules'}
_CONTAINERS = (list, tuple, set, frozenset, deque)
# Their functions have no state of the user's.
_LIBRARIES = {*sys.stdlib_module_names, 'torch', 'torchopt', 'optree', 'numpy'} - {'__main__'}


def reachable(
    roots: Iterable[tuple[str, Any]], wanted: tuple[type, ...]
) -> Iterator[tuple[str, Any]]:
    """Yield the objects of the types ``wanted`` that ``roots`` can reach, and their names.

    The search goes from near to far. It follows attributes (slots, too), elements of containers,
    closures, defaults, the globals that a function names, user classes, and whatever else Python's
    garbage collector knows an object to hold. It does not follow modules, except where a function
    names an attribute, nor the functions of Python and of torch, and it ends after 10,000 objects,
    and after 1,000 elements of a container.
    """
    waiting = deque(roots)
    seen: set[int] = set()
    # What was looked at is kept alive, so that no other object gets the same id.
    kept: list[Any] = []
    # Asked once a type, because torch.Tensor answers issubclass slowly.
    skipped: dict[type, bool] = {}
    while waiting and len(kept) < _MOST_OBJECTS:
        name, value = waiting.popleft()
        kind = type(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        kept.append(value)
        if issubclass(kind, wanted):
            yield name, value
            continue
        for part_name, part in _parts(name, value, kind):
            part_kind = type(part)
            if part_kind not in skipped:
                is_wanted = issubclass(part_kind, wanted)
                skipped[part_kind] = not is_wanted and issubclass(part_kind, _SKIPPED)
            # Modules hold a dozen empty dictionaries of hooks.
            empty = part_kind in _BUILT_IN and not part
            if not (skipped[part_kind] or empty or id(part) in seen):
                waiting.append((part_name, part))


def captured_state(fn: Any) -> Iterator[tuple[str, torch.Tensor | torch.nn.Module]]:
    """Yield the tensors and modules that ``fn`` sees; what a module holds comes with the module.

    The search goes on from the functions that a module holds, such as a loss.
    """
    seen: set[int] = set()
    roots: list[tuple[str, Any]] = [('', fn)]
    while roots:
        found = list(reachable(roots, (torch.Tensor, torch.nn.Module)))
        roots = []
        for name, value in found:
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield name, value
            if isinstance(value, torch.nn.Module):
                held = _attributes(value).items()
                roots += [(f'{name}.{key}', part) for key, part in held if callable(part)]


def _parts(name: str, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    # Types are compared, and attributes read, without asking the object: it may answer anything.
    attributes = _attributes(value)
    if issubclass(kind, types.FunctionType):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            with suppress(ValueError):  # not assigned yet
                yield variable, cell.cell_contents
        if not _is_of_a_library(value.__module__):
            yield from _seen_by(value)
        yield from ((f'{name or value.__name__}.{key}', part) for key, part in attributes.items())
        return
    if issubclass(kind, types.MethodType):
        yield 'self', value.__self__
        yield name, value.__func__
        return
    if issubclass(kind, type):
        if not _is_of_a_library(value.__module__):
            yield from ((f'{value.__name__}.{key}', part) for key, part in vars(value).items())
        return
    if issubclass(kind, functools.partial):
        yield from ((name, part) for part in (value.func, *value.args))
        yield from value.keywords.items()
        return
    if issubclass(kind, dict):
        for key, part in itertools.islice(dict.items(value), _MOST_ELEMENTS):
            yield f'{name}[{key!r}]' if isinstance(key, (str, int)) else name, part
    elif issubclass(kind, _CONTAINERS):
        fields = getattr(kind, '_fields', ())  # of a named tuple
        elements: Any = next(base for base in _CONTAINERS if issubclass(kind, base)).__iter__
        for number, part in enumerate(itertools.islice(elements(value), _MOST_ELEMENTS)):
            yield f'{name}.{fields[number]}' if fields else f'{name}[{number}]', part
    own = name or 'self'
    for key, part in attributes.items():
        if key in _PARTS_OF_MODULES and isinstance(part, dict):
            yield from ((f'{own}.{key}', inner) for key, inner in part.items())
        else:
            yield f'{own}.{key}', part
    for cls in kind.__mro__:
        if not _is_of_a_library(cls.__module__):
            for key, part in vars(cls).items():
                if isinstance(part, types.MemberDescriptorType):
                    with suppress(AttributeError):  # a slot without a value
                        yield f'{own}.{key}', part.__get__(value)
                else:
                    yield f'{own}.{key}', part
    # Of a container, these are its elements, which may be many.
    if not issubclass(kind, (dict, *_CONTAINERS)):
        yield from ((name, part) for part in gc.get_referents(value) if part is not attributes)


def _attributes(value: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(value, '__dict__')
    except AttributeError:
        return {}
    return found


def _seen_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    defaults = function.__defaults__ or ()
    yield from zip(reversed(code.co_varnames[: code.co_argcount]), reversed(defaults))
    yield from (function.__kwdefaults__ or {}).items()
    names = list(dict.fromkeys(_names_in(code)))
    for name in names:
        if name in function.__globals__:
            yield from _in_module(name, function.__globals__[name], names)


def _in_module(name: str, value: Any, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield ``value``; where it is a module, what the function may read from it."""
    if not isinstance(value, types.ModuleType):
        yield name, value
    elif not _is_of_a_library(value.__name__):
        own = vars(value)
        for key in names:
            # Of a submodule, again what the function names.
            if key in own and own[key] is not value:
                deeper = [other for other in names if other != key]
                yield from _in_module(f'{name}.{key}', own[key], deeper)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_of_a_library(module: Any) -> bool:
    return isinstance(module, str) and _is_library(module)


@functools.lru_cache(maxsize=4096)
def _is_library(module: str) -> bool:
    return module.partition('.')[0] in _LIBRARIES
