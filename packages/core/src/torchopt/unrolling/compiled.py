"""One compiled step, and its compiled derivative, for any number of steps."""

from __future__ import annotations

import types
from collections.abc import Callable
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import torch

from torchopt import pytree
from torchopt.unrolling.closures import function_of
from torchopt.unrolling.derivatives import Cotangents
from torchopt.unrolling.engine import Eager, Engine, Point, Pulled, wanted_of
from torchopt.unrolling.leaves import Leaves, flatten, frame_of, is_differentiable, tensors_of
from torchopt.unrolling.loop import Loop, Step

Compilation: TypeAlias = bool | str | Callable[..., Any]
"""Whether to compile, or the backend of ``torch.compile`` to do it with."""


def engine_for(loop: Loop, compile: Compilation) -> Engine:
    """Return what runs the steps of ``loop``."""
    if compile is False:
        return Eager()
    return Compiled(loop, 'inductor' if compile is True else compile)


class Compiled:
    """Runs a step, and its derivative, as two graphs that serve every step.

    The graphs stay with the code of the step and serve later loops, too, as long as Dynamo's
    guards hold: the same closure, structures, shapes and dtypes.
    """

    def __init__(self, loop: Loop, backend: str | Callable[..., Any]) -> None:
        self._frame = frame_of(loop.carry)
        self._compiled = _compiled_for(loop.step, backend)

    def advance(
        self, loop: Loop, point: Point, x: Leaves
    ) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        """Run a step without a graph.

        Raises:
            TypeError: a leaf of the carry that is no tensor has changed: it is part of the graph.
        """
        if frame_of(point.carry) != self._frame:
            raise TypeError(
                f'the carry before {loop.called(point.number)} has other numbers in it than the '
                'first: compiled steps need counters that are tensors'
            )
        step = loop.step

        def compiled_step(carry: Any, x: Any, consts: Any) -> Any:
            return self._compiled.step(step, carry, x, consts)

        return Eager().advance(loop._replace(step=compiled_step), point, x)

    def pull(
        self, loop: Loop, point: Point, x: Leaves, carry: Cotangents, y: Cotangents, wanted: Pulled
    ) -> Pulled:
        """Run the compiled derivative of a step."""
        # Of the first step, too: another choice would be another graph.
        wanted = wanted._replace(carry=wanted_of(point.carry))
        masks = tuple(tuple(part is not None for part in group) for group in wanted)
        # One layout, too: the first cotangent is often expanded, of stride 0.
        carry_bars = [
            _in_order(torch.zeros_like(tensor) if bar is None else bar)
            for tensor, bar in zip(tensors_of(point.carry), carry)
            if is_differentiable(tensor)
        ]
        y_mask = tuple(bar is not None for bar in y)
        y_bars = [_in_order(bar) for bar in y if bar is not None]
        found = iter(
            self._compiled.pull(
                loop.step,
                pytree.tree_unflatten(loop.carry_structure, point.carry),
                pytree.tree_unflatten(loop.xs_structure, x),
                pytree.tree_unflatten(loop.consts_structure, loop.consts),
                masks,
                y_mask,
                [*carry_bars, *y_bars],
            )
        )
        return Pulled(*([next(found) if need else None for need in mask] for mask in masks))


def _in_order(tensor: torch.Tensor) -> torch.Tensor:
    # contiguous() would leave any stride to a dimension of size 1, and guards compare it.
    strides = [*accumulate(tensor.shape[:0:-1], mul, initial=1)][::-1]
    return tensor.contiguous().as_strided(tensor.shape, strides[: tensor.dim()])


class _CompiledStep(NamedTuple):
    step: Callable[..., Any]
    pull: Callable[..., Any]


_Backends: TypeAlias = dict[str | Callable[..., Any], _CompiledStep]
_by_code: WeakKeyDictionary[types.CodeType, _Backends] = WeakKeyDictionary()


def _compiled_for(step: Step, backend: str | Callable[..., Any]) -> _CompiledStep:
    by_backend = _by_code.setdefault(function_of(step).__code__, {})
    if backend not in by_backend:
        by_backend[backend] = _CompiledStep(*(_compile(_copy(fn), backend) for fn in (_run, _pull)))
    return by_backend[backend]


def _compile(fn: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    # Random numbers from torch's generators, so that both graphs draw the same.
    options: Any = {'fallback_random': True} if backend == 'inductor' else None
    return torch.compile(fn, fullgraph=True, dynamic=False, backend=backend, options=options)


def _copy(fn: types.FunctionType | Any) -> Callable[..., Any]:
    """Return ``fn`` with a code object of its own, to which Dynamo ties graphs and their limit."""
    return types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__)


def _run(step: Step, carry: Any, x: Any, consts: Any) -> Any:
    return step(carry, x, consts)


def _pull(
    step: Step,
    carry: Any,
    x: Any,
    consts: Any,
    masks: tuple[tuple[bool, ...], ...],
    y_mask: tuple[bool, ...],
    bars: list[torch.Tensor],
) -> list[torch.Tensor]:
    trees = [flatten(tree) for tree in (carry, x, consts)]
    tensors = [tensor for leaves, _ in trees for tensor in tensors_of(leaves)]
    chosen = [position for position, need in enumerate(sum(masks, ())) if need]

    def outputs(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        replaced = list(tensors)
        for position, part in zip(chosen, parts):
            replaced[position] = part
        supply = iter(replaced)
        args = [
            pytree.tree_unflatten(
                structure,
                [next(supply) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves],
            )
            for leaves, structure in trees
        ]
        new_carry, y = step(*args)
        of_carry = [leaf for leaf in flatten(new_carry)[0] if is_differentiable(leaf)]
        of_y = [leaf for leaf, need in zip(tensors_of(flatten(y)[0]), y_mask) if need]
        return (*of_carry, *of_y)

    pulled: Any = torch.func.vjp(outputs, *[tensors[position] for position in chosen])
    return list(pulled[1](tuple(bars)))
