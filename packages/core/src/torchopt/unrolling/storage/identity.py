"""What one run is: two runs of the same identity have the same results."""

from __future__ import annotations

import argparse
import functools
import hashlib
import platform
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.context.closures import function_of
from torchopt.unrolling.context.surroundings import Surroundings
from torchopt.unrolling.hashing import update_with
from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.storage.parts import take_apart

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST_OBJECTS = 10_000


class Circumstances(NamedTuple):
    """What a run depends on beside its loop.

    Attributes:
        strategy: The strategy with its options.
        order: How kept inner gradients are differentiated; None: they are not kept.
        differentiated: Which tensors of the loop need a gradient.
        autocast: The settings of autocast.
        surroundings: What the step sees beside its arguments.
    """

    strategy: str
    order: Order | None
    differentiated: tuple[bool, ...]
    autocast: Autocast
    surroundings: Surroundings


def identity_of(loop: Loop, circumstances: Circumstances) -> dict[str, str]:
    """Return what tells a run from others, each under the name that an error gives it.

    The code of a function counts with the code of the functions that it holds or names, and with
    the numbers and strings among them. The values of tensors count by their hash.
    """
    arguments = [*loop.carry, *loop.xs, *loop.consts]
    return {
        'step': _name_of(loop.step),
        'code of the step': _hash_of_code(loop.step),
        'until': ''
        if loop.until is None
        else f'{_name_of(loop.until)} {_hash_of_code(loop.until)}',
        'strategy': circumstances.strategy,
        'length': f'{loop.length}, from step {loop.first}',
        'structure of (carry, x, consts)': str(loop.structure),
        'shapes and dtypes': '; '.join(_kind_of(leaf) for leaf in arguments),
        'values of carry, xs and consts': _hash_of_values(arguments),
        'Stream': '' if loop.data is None else loop.data.digest + _hash_of_code(loop.data.fn),
        'tensors that the step captures': _hash_of_values(
            [tensor for _, tensor in circumstances.surroundings.tensors]
        ),
        'what requires grad': str(circumstances.differentiated),
        'autocast': str(circumstances.autocast.settings),
        'versions': f'torch {torch.__version__}, Python {platform.python_version()}',
    }


def _kind_of(leaf: Any) -> str:
    return describe(leaf) if isinstance(leaf, torch.Tensor) else type(leaf).__name__


def _name_of(fn: Any) -> str:
    function = function_of(fn)
    return f'{function.__module__}.{function.__qualname__}'


def _hash_of_values(values: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            update_with_tensor(found, value)
        elif isinstance(value, nn.Module):
            for name, tensor in value.state_dict(keep_vars=True).items():
                found.update(name.encode())
                if isinstance(tensor, torch.Tensor):
                    update_with_tensor(found, tensor)
        elif isinstance(value, _PLAIN):
            found.update(repr(value).encode())
        found.update(b'|')
    return found.hexdigest()


def update_with_tensor(found: Any, tensor: torch.Tensor) -> None:
    """Let a hash of :mod:`hashlib` take in the elements of ``tensor``."""
    for part in take_apart(tensor.detach())[0]:
        update_with(found, part)


def _hash_of_code(fn: Callable[..., Any]) -> str:
    """Return a hash of what ``fn`` runs, which is the same in every process."""
    return hashlib.sha256('\n'.join(_lines_of_code(fn)).encode()).hexdigest()


def _lines_of_code(root: Any) -> Iterator[str]:
    waiting: list[Any] = [root]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop()
        if isinstance(value, _PLAIN):
            yield repr(value)
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield type(value).__qualname__
        if isinstance(value, types.FunctionType):
            yield f'{value.__module__}.{value.__qualname__}'
            yield from _lines_of(value.__code__)
        waiting.extend(reversed(list(_held_by(value))))


def _lines_of(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _lines_of(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)


def _held_by(value: Any) -> Iterator[Any]:
    """Yield what counts for the code of ``value``, in an order that every process has."""
    if isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not assigned yet
                yield None
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        if not _is_of_a_library(value.__module__):
            for name in _names_in(value.__code__):
                held = value.__globals__.get(name)
                if isinstance(held, (*_PLAIN, types.FunctionType, functools.partial, type)):
                    yield held
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, (tuple, list)):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, type):
        if not _is_of_a_library(value.__module__):
            # Not its numbers: a class may count something in them.
            parts = (getattr(part, '__func__', part) for part in vars(value).values())
            yield from (part for part in parts if isinstance(part, types.FunctionType))
    elif isinstance(value, nn.Module):
        yield type(value)
        yield from (part for part in vars(value).values() if callable(part))
        yield from value._modules.values()
    elif is_dataclass(value) or isinstance(value, (SimpleNamespace, argparse.Namespace)):
        yield from vars(value).values()
    elif not isinstance(value, (torch.Tensor, types.ModuleType)) and callable(value):
        yield type(value)
        yield from getattr(value, '__dict__', {}).values()


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_of_a_library(module: Any) -> bool:
    return isinstance(module, str) and module.partition('.')[0] in {'torch', 'optree', 'numpy'}
