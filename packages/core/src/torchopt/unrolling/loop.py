"""One call of ``unroll``: its trees taken apart, and the one way in which a step is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch

from torchopt import pytree
from torchopt.unrolling.leaves import (
    Leaves,
    detached,
    fill,
    flatten,
    frame_of,
    require_alike,
    require_storable,
    tensors_of,
    versions,
)

Step: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any]]
"""``step(carry, x, consts) -> (carry, y)``."""

Advance: TypeAlias = Callable[[int, Leaves], tuple[Leaves, Leaves]]
"""Runs the step of a number on a flat carry; returns the next carry and ``y``, both flat."""


class Loop(NamedTuple):
    """What is to be run, with the trees flattened.

    Attributes:
        step: The function of the user.
        carry: Leaves of the initial carry.
        carry_structure: Their tree.
        xs: Leaves that are sliced along their first dimension; None leaves stay.
        xs_structure: Their tree.
        consts: Leaves that every step sees; those that are no tensors are passed on as they are.
        consts_structure: Their tree.
        length: The number of steps, or an upper bound of it beside ``until``; None: no bound.
        until: Stops the loop before the step whose carry satisfies it.
        progress: Is told the number of steps taken, the carry and ``y`` after every step.
        first: Number of the first step, where the loop is the end of another.
        constant: Whether no derivative is wanted, so that none is lost.
    """

    step: Step
    carry: Leaves
    carry_structure: pytree.PyTreeSpec
    xs: Leaves
    xs_structure: pytree.PyTreeSpec
    consts: Leaves
    consts_structure: pytree.PyTreeSpec
    length: int | None
    until: Callable[[Any], Any] | None
    progress: Callable[[int, Any, Any], object] | None
    first: int = 0
    constant: bool = False

    def called(self, number: int) -> str:
        """Return what messages call a step."""
        return f'step {self.first + number}'

    def run_step(
        self, number: int, carry: Leaves, x: Leaves, consts: Leaves
    ) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        """Run one step; return the next carry, ``y`` and the structure of ``y``.

        Raises:
            TypeError: the step does not return a pair, or ``y`` has a leaf that is no tensor.
            ValueError: the carry changes its structure, or a leaf its type, shape or dtype.
            RuntimeError: the step wrote into one of its arguments.
        """
        traced = torch.compiler.is_compiling()
        before = [] if traced else versions([*carry, *x, *consts])
        result = self.step(
            pytree.tree_unflatten(self.carry_structure, carry),
            pytree.tree_unflatten(self.xs_structure, x),
            pytree.tree_unflatten(self.consts_structure, consts),
        )
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f'step must return the pair (carry, y), got {type(result).__name__}')
        if not traced and before != versions([*carry, *x, *consts]):
            raise RuntimeError(self._written(before, [*carry, *x, *consts], number))
        new_carry, structure = flatten(result[0])
        place = self.called(number)
        require_alike(carry, self.carry_structure, new_carry, structure, name='carry', step=place)
        if not traced and len(tensors_of(new_carry)) != len(new_carry):
            require_storable(new_carry, structure)
        y, y_structure = flatten(result[1])
        for position, leaf in enumerate(y):
            if leaf is not None and not isinstance(leaf, torch.Tensor):
                where = y_structure.accessors()[position].codify('y')
                raise TypeError(
                    f'{where} must be a tensor or None, to be stacked, got {type(leaf).__name__}'
                )
        return new_carry, y, y_structure

    def numbers(self) -> Iterator[int]:
        """Return the numbers of the steps, as far as they are bounded."""
        return iter(range(self.length)) if self.length is not None else itertools.count()

    def stops(self, carry: Leaves) -> bool:
        """Tell whether ``carry`` satisfies the stop condition."""
        if self.until is None:
            return False
        answer = self.until(pytree.tree_unflatten(self.carry_structure, carry))
        try:
            return bool(answer)
        except RuntimeError as error:
            raise RuntimeError(
                'until must give one bool for the whole carry; under torch.vmap and in a compiled '
                'function its value is not known, so that unroll needs a fixed number of steps'
            ) from error

    def report(self, taken: int, carry: Leaves, y: Leaves, y_structure: pytree.PyTreeSpec) -> None:
        """Report to ``progress``, if somebody watches."""
        if self.progress is not None:
            self.progress(
                self.first + taken,
                pytree.tree_unflatten(self.carry_structure, carry),
                pytree.tree_unflatten(y_structure, y),
            )

    def _written(self, before: list[int], leaves: Leaves, number: int) -> str:
        accessors = [
            accessor.codify(name)
            for name, structure in (
                ('carry', self.carry_structure),
                ('x', self.xs_structure),
                ('consts', self.consts_structure),
            )
            for accessor in structure.accessors()
        ]
        names = [name for name, leaf in zip(accessors, leaves) if isinstance(leaf, torch.Tensor)]
        after = versions(leaves)
        written = [name for name, old, new in zip(names, before, after) if old != new]
        return (
            f'{self.called(number)} writes in place into {", ".join(written)}, which it may '
            'need again: return new tensors (update and apply_updates with inplace=False, '
            'clones of buffers)'
        )


class Sweep(NamedTuple):
    """What a run through the steps gives.

    Attributes:
        carry: Leaves of the last carry.
        ys: Leaves of all ``y``, stacked.
        structure: Tree of ``y``; None if no step was taken.
        taken: Number of steps taken.
    """

    carry: Leaves
    ys: Leaves
    structure: pytree.PyTreeSpec | None
    taken: int

    def unflatten(self, loop: Loop) -> tuple[Any, Any]:
        """Return the trees ``(carry, ys)``."""
        carry = pytree.tree_unflatten(loop.carry_structure, self.carry)
        if self.structure is None:
            return carry, None
        return carry, pytree.tree_unflatten(self.structure, self.ys)


def sweep(
    loop: Loop,
    advance: Callable[[int, Leaves], tuple[Leaves, Leaves, pytree.PyTreeSpec]],
    visit: Callable[[int, Leaves], object] | None = None,
) -> Sweep:
    """Run ``loop`` from its initial carry to its end.

    Args:
        loop: What to run.
        advance: Runs the step of a number on a carry.
        visit: Is shown the carry before every step that is taken.

    Raises:
        ValueError: two steps return different trees as ``y``.
    """
    carry, structure, rows = loop.carry, None, []
    for number in loop.numbers():
        if loop.stops(carry):
            break
        if visit is not None:
            visit(number, carry)
        carry, y, y_structure = advance(number, carry)
        if structure is None:
            structure = y_structure
        else:
            require_alike(rows[0], structure, y, y_structure, name='y', step=loop.called(number))
        rows.append(y)
        loop.report(len(rows), carry, y, y_structure)
    ys = [None if column[0] is None else torch.stack(column) for column in zip(*rows)]
    return Sweep(carry, ys, structure, len(rows))


def rows_of(xs: Leaves) -> Callable[[int], Leaves]:
    """Return the function that gives the slices of ``xs`` for one step."""
    # Taken apart at once: the derivative of K single selections would fill K arrays like xs.
    columns = [None if leaf is None else leaf.unbind(0) for leaf in xs]
    return lambda number: [None if column is None else column[number] for column in columns]


def tensor_inputs(loop: Loop) -> list[torch.Tensor]:
    """Return the tensors that go into ``loop``: of the carry, of xs and of consts."""
    return tensors_of([*loop.carry, *loop.xs, *loop.consts])


def hollow(loop: Loop) -> Loop:
    """Return ``loop`` without its tensors and what only the first run needs, to be kept."""
    return loop._replace(
        carry=frame_of(loop.carry),
        xs=frame_of(loop.xs),
        consts=frame_of(loop.consts),
        until=None,
        progress=None,
    )


def without_history(loop: Loop) -> Loop:
    """Return ``loop`` with all its tensors detached."""
    return loop._replace(
        carry=detached(loop.carry),
        xs=detached(loop.xs),
        consts=detached(loop.consts),
        constant=True,
    )


def with_inputs(loop: Loop, tensors: Iterable[torch.Tensor]) -> Loop:
    """Put tensors, in the order of :func:`tensor_inputs`, into a hollow loop."""
    supply = iter(tensors)
    return loop._replace(
        carry=fill(loop.carry, supply), xs=fill(loop.xs, supply), consts=fill(loop.consts, supply)
    )
