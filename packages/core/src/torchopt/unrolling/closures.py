"""Tensors that reach a step past its arguments: found in its graph, and named."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from torchopt.unrolling.leaves import flatten, tensors_of

_CURE = 'Pass it (or what is computed from it) through consts, detach it, or use backward=Stored()'


def require_no_captures(
    fn: Any,
    outputs: Iterable[Any],
    inputs: Iterable[torch.Tensor],
    *,
    place: str,
    cure: str = _CURE,
) -> None:
    """Raise if ``outputs`` depend on a tensor that requires grad and is not among ``inputs``.

    Costs nothing where no output requires grad: ``inputs`` are without history, so that only a
    captured tensor, or a step that asks for the gradient of its carry, can make one.

    Args:
        fn: Function that was run, in which the names of captured tensors are looked up.
        outputs: What it returned.
        inputs: What it was given.
        place: How the error calls the run.
        cure: What it advises.

    Raises:
        RuntimeError: they do; the message names the tensor.
    """
    roots = [output.grad_fn or output for output in tensors_of(outputs) if output.requires_grad]
    if not roots:
        return
    known = {id(tensor) for tensor in inputs}
    if not any(id(leaf) not in known for leaf in _leaves_of_graph(list(roots), {})):
        return
    # The author knows what the step captures, which need not be a leaf.
    captured = [(name, leaf) for name, leaf in captured_tensors(fn) if leaf.requires_grad]
    names = {id(tensor): name for name, tensor in captured}
    by_node = {tensor.grad_fn: tensor for _, tensor in captured if tensor.grad_fn is not None}
    described = ', '.join(
        f'{names.get(id(leaf), "a tensor")} of shape {tuple(leaf.shape)}'
        for leaf in _leaves_of_graph(roots, by_node)
        if id(leaf) not in known
    )
    raise RuntimeError(
        f'{place} depends on a tensor that requires grad and is none of its arguments, whose '
        f'gradient would be lost: {described}. {cure}'
    )


def _leaves_of_graph(roots: list[Any], stops: dict[Any, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the leaves behind ``roots``; for a node in ``stops`` the tensor that is given there."""
    seen: set[Any] = set()
    waiting = roots
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.Tensor):
            yield node
        elif node in stops:
            yield stops[node]
        elif hasattr(node, 'variable'):
            yield node.variable
        else:
            waiting.extend(parent for parent, _ in node.next_functions)


def function_of(fn: Any) -> Any:
    """Return the Python function behind a callable: of a partial, a method, an object, a wrapper.

    Raises:
        TypeError: there is none.
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
    """Yield what ``fn`` can see beside its arguments, with names that its author knows.

    Tensors, trees of them and modules in its closure, in the globals that it names, in its
    defaults, in the object that it is bound to and in the functions that it calls in turn.
    """
    for name, value in _captured(fn, in_trees=True):
        if isinstance(value, torch.Tensor):
            yield name, value


def captured_generators(fn: Any) -> Iterator[tuple[str, torch.Generator]]:
    """Yield the random number generators that ``fn`` sees in the same places, but not in trees.

    This is asked before every loop: a tree may be a whole data set, and an object a whole program,
    of which only so much is looked at.
    """
    for name, value in _captured(fn, in_trees=False, at_most=300):
        if isinstance(value, torch.Generator):
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
            if in_trees:
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
        except ValueError:  # a variable that is not assigned yet
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
