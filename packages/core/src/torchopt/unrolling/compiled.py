"""One compiled step, and its compiled derivative, for any number of steps."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from operator import mul
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import torch

from torchopt import pytree
from torchopt.unrolling.closures import function_of
from torchopt.unrolling.derivatives import Cotangents
from torchopt.unrolling.engine import Eager, Engine, Point, Pulled, wanted_of
from torchopt.unrolling.internals import too_many_graphs
from torchopt.unrolling.leaves import (
    Leaves,
    flatten,
    frame_of,
    is_differentiable,
    map_tensors,
    tensors_of,
)
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

        point = point._replace(carry=_laid_out(point))
        return Eager().advance(loop._replace(step=compiled_step), point, x)

    def pull(
        self, loop: Loop, point: Point, x: Leaves, carry: Cotangents, y: Cotangents, wanted: Pulled
    ) -> Pulled:
        """Run the compiled derivative of a step."""
        # Of the first step, too: another choice would be another graph.
        wanted = wanted._replace(carry=wanted_of(point.carry))
        masks = [[part is not None for part in group] for group in wanted]
        # One layout, too: the first cotangent is often expanded, of stride 0.
        carry_bars = [
            _in_order(torch.zeros_like(tensor) if bar is None else bar)
            for tensor, bar in zip(tensors_of(point.carry), carry)
            if is_differentiable(tensor)
        ]
        y_mask = tuple(bar is not None for bar in y)
        y_bars = [_in_order(bar) for bar in y if bar is not None]
        structures = (loop.carry_structure, loop.xs_structure, loop.consts_structure)
        parts = (_laid_out(point), x, loop.consts)
        found = iter(
            self._compiled.pull(
                loop.step,
                tuple(map(pytree.tree_unflatten, structures, parts)),
                tuple(map(pytree.tree_unflatten, structures, _places(parts, masks))),
                y_mask,
                [*carry_bars, *y_bars],
            )
        )
        return Pulled(*([next(found) if need else None for need in mask] for mask in masks))


def _places(parts: Iterable[Leaves], masks: Iterable[list[bool]]) -> Iterator[Leaves]:
    """Number the tensors that are differentiated by, and put None in place of all else."""
    numbers = itertools.count()
    for leaves, mask in zip(parts, masks):
        places = iter([next(numbers) if need else None for need in mask])
        yield [next(places) if isinstance(leaf, torch.Tensor) else None for leaf in leaves]


def _laid_out(point: Point) -> Leaves:
    # The first carry has the layout that the caller gave it, those after it that of the step.
    return map_tensors(_in_order, point.carry) if point.number == 0 else point.carry


def _in_order(tensor: torch.Tensor) -> torch.Tensor:
    # contiguous() would leave any stride to a dimension of size 1, and guards compare it.
    strides = [*itertools.accumulate(tensor.shape[:0:-1], mul, initial=1)][::-1]
    return tensor.contiguous().as_strided(tensor.shape, strides[: tensor.dim()])


class _Compilation:
    """A compiled function, which is compiled anew where Dynamo has compiled it often enough."""

    def __init__(self, fn: Callable[..., Any], backend: str | Callable[..., Any]) -> None:
        self._fn = fn
        self._backend = backend
        self._compiled = self._compile()

    def __call__(self, *args: Any) -> Any:
        try:
            return self._compiled(*args)
        except too_many_graphs():
            # One code may be that of many steps (of all that a factory or ModuleStep makes), and
            # torch allows few graphs for it. Those of the steps before are given up.
            self._compiled = self._compile()
            return self._compiled(*args)

    def _compile(self) -> Callable[..., Any]:
        # Random numbers from torch's generators, so that both graphs draw the same.
        options: Any = {'fallback_random': True} if self._backend == 'inductor' else None
        return torch.compile(
            _copy(self._fn), fullgraph=True, dynamic=False, backend=self._backend, options=options
        )


class _CompiledStep(NamedTuple):
    step: Callable[..., Any]
    pull: Callable[..., Any]


_Backends: TypeAlias = dict[str | Callable[..., Any], _CompiledStep]
_by_code: WeakKeyDictionary[types.CodeType, _Backends] = WeakKeyDictionary()


def _compiled_for(step: Step, backend: str | Callable[..., Any]) -> _CompiledStep:
    by_backend = _by_code.setdefault(function_of(step).__code__, {})
    if backend not in by_backend:
        by_backend[backend] = _CompiledStep(
            _Compilation(_run, backend), _Compilation(_pull, backend)
        )
    return by_backend[backend]


def _copy(fn: types.FunctionType | Any) -> Callable[..., Any]:
    """Return ``fn`` with a code object of its own, to which Dynamo ties graphs and their limit."""
    return types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__)


def _run(step: Step, carry: Any, x: Any, consts: Any) -> Any:
    return step(carry, x, consts)


def _pull(
    step: Step,
    trees: Any,
    places: Any,
    y_mask: tuple[bool, ...],
    bars: list[torch.Tensor],
) -> list[torch.Tensor]:
    def outputs(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args: Any = pytree.tree_map(
            lambda leaf, place: leaf if place is None else parts[place],
            trees,
            places,
            none_is_leaf=True,
        )
        new_carry, y = step(*args)
        of_y = [leaf for leaf, need in zip(tensors_of(flatten(y)[0]), y_mask) if need]
        # Of the carry that goes in and that comes out the same tensors have a derivative.
        return (*_by_place(new_carry, places[0]), *of_y)

    pulled: Any = torch.func.vjp(outputs, *_by_place(trees, places))
    return list(pulled[1](tuple(bars)))


def _by_place(tree: Any, places: Any) -> list[torch.Tensor]:
    """Return the leaves of ``tree`` in the order of the numbers at their places.

    Without taking the tree apart: in torch 2.13 Dynamo cannot where one of its dictionaries is
    empty, and it visits the keys of the others in another order.
    """
    found: dict[int, torch.Tensor] = {}

    def put(leaf: Any, place: int | None) -> None:
        if place is not None:
            found[place] = leaf

    pytree.tree_map(put, tree, places, none_is_leaf=True)
    return [found[place] for place in range(len(found))]
