"""What a function can see beside its arguments: closure, globals, defaults, bound objects."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch

from torchopt.unrolling.leaves import flatten


def function_of(fn: Any) -> Any:
    """Return the Python function behind a partial, a method, a callable object or a wrapper.

    Raises:
        TypeError: there is no Python function behind it.
    """
    while not hasattr(fn, '__code__') or hasattr(fn, '_torchdynamo_orig_callable'):
        for attribute in ('_torchdynamo_orig_callable', '__wrapped__', '__func__', 'func'):
            if hasattr(fn, attribute):
                fn = getattr(fn, attribute)
                break
        else:
            if not hasattr(fn.__call__, '__func__'):
                raise TypeError(f'step must be a Python function, got {type(fn).__name__}')
            fn = fn.__call__
    return fn


def captured_tensors(fn: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that ``fn`` can see beside its arguments, named as in its source.

    The search covers tensors, trees of tensors and modules in its closure, in the globals that it
    names, in its defaults, in the object that it is bound to, and in the functions that it calls.
    """
    for name, value in _captured(fn, in_trees=True):
        if isinstance(value, torch.Tensor):
            yield name, value


def captured_generators(fn: Any) -> Iterator[tuple[str, torch.Generator]]:
    """Yield the random number generators in the same places, except in trees.

    This runs before every loop. It skips trees, which may be whole data sets, and ends after a
    fixed number of objects, because the attributes of one may reach a whole program.
    """
    for name, value in _captured(fn, in_trees=False, at_most=300):
        if isinstance(value, torch.Generator):
            yield name, value


def captured_state(fn: Any) -> Iterator[tuple[str, torch.Tensor | torch.nn.Module]]:
    """Yield the modules and tensors in the same places; parameters come with their module.

    This runs before every loop, and has the same bound. It skips trees with more parts than that.
    """
    for name, value in _captured(fn, in_trees=True, at_most=300):
        if isinstance(value, (torch.Tensor, torch.nn.Module)):
            yield name, value


def _captured(fn: Any, *, in_trees: bool, at_most: float = math.inf) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [('', fn)]
    while waiting and len(seen) < at_most:
        name, value = waiting.pop()
        if id(value) in seen or isinstance(value, type):
            continue
        seen.add(id(value))
        if isinstance(value, (torch.Tensor, torch.Generator)):
            yield name, value
        elif isinstance(value, torch.nn.Module):
            yield name, value
            if in_trees:
                yield from ((f'{name}.{key}', leaf) for key, leaf in value.named_parameters())
            waiting.extend(
                (f'{name}.{key}', part) for key, part in vars(value).items() if callable(part)
            )
        elif isinstance(value, functools.partial):
            waiting.extend((name, part) for part in (value.func, *value.args))
            waiting.extend(value.keywords.items())
        elif hasattr(value, '__func__'):
            waiting.extend([('self', value.__self__), (name, value.__func__)])
        elif hasattr(value, '__code__'):
            waiting.extend(_visible(value))
        elif isinstance(value, (tuple, list, dict)):
            if in_trees and len(value) <= at_most:
                leaves, structure = flatten(value)
                accessors = structure.accessors()
                waiting.extend((entry.codify(name), leaf) for entry, leaf in zip(accessors, leaves))
        elif hasattr(value, '__dict__') and not hasattr(value, '__path__'):
            own = vars(value) if type(value).__module__ != 'builtins' else {}
            waiting.extend((f'{name or "self"}.{key}', part) for key, part in own.items())
            if name == '':
                waiting.append(('', value.__call__))


_SEEN_IN_GLOBALS = (torch.Tensor, torch.Generator, torch.nn.Module, tuple, list, dict)


def _visible(function: Any) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in code.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, _SEEN_IN_GLOBALS) or (
            hasattr(value, '__code__') and value.__module__ == function.__module__
        ):
            yield name, value
    yield from zip(
        reversed(code.co_varnames[: code.co_argcount]), reversed(function.__defaults__ or ())
    )
