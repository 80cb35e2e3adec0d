"""One call of ``unroll`` as data: its function, its trees flattened, its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch

from torchopt import pytree
from torchopt.unrolling.leaves import Leaves, detached, fill, template_of, tensors_of
from torchopt.unrolling.stream import Batches

Step: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any]]
"""``step(carry, x, consts) -> (carry, y)``."""


class Loop(NamedTuple):
    """One call of ``unroll``, with its trees flattened.

    The arguments of a step are one list, the leaves of ``(carry, x, consts)``.

    Attributes:
        step: The user's function.
        carry: Leaves of the initial carry.
        xs: Leaves that are sliced along their first dimension; None leaves stay.
        consts: Leaves that every step receives; only the tensors are differentiated by.
        carry_structure: Tree of the carry.
        structure: Tree of ``(carry, x, consts)``.
        length: Number of steps, or its upper bound beside ``until``; None: no bound.
        until: Ends the loop before the step whose carry satisfies it.
        progress: Receives the number of steps taken, the carry and ``y`` after every step.
        first: Number of the first step in messages, where the loop is the end of another.
        constant: Whether nothing is differentiated, so that no gradient can be lost.
        data: What takes the place of xs, which are then empty.
    """

    step: Step
    carry: Leaves
    xs: Leaves
    consts: Leaves
    carry_structure: pytree.PyTreeSpec
    structure: pytree.PyTreeSpec
    length: int | None
    until: Callable[[Any], Any] | None
    progress: Callable[[int, Any, Any], object] | None
    first: int = 0
    constant: bool = False
    data: Batches | None = None

    def tensors(self) -> list[torch.Tensor]:
        """Return all input tensors: of the carry, then of xs, then of consts."""
        return tensors_of([*self.carry, *self.xs, *self.consts])

    @property
    def data_fn(self) -> Callable[[int], Any] | None:
        """The user's function that makes the data, if there is one."""
        return None if self.data is None else self.data.fn

    def rows(self) -> Callable[[int], Leaves]:
        """Return the function that gives the leaves of ``x`` for the step of a number."""
        if self.data is not None:
            data, first = self.data, self.first
            return lambda number: data.leaves(first + number)
        # One unbind, because the derivative of K selections would fill K tensors the size of xs.
        columns = [None if leaf is None else leaf.unbind(0) for leaf in self.xs]
        return lambda number: [None if column is None else column[number] for column in columns]

    def template(self) -> Loop:
        """Return the loop without its tensors, ``until`` and ``progress``.

        This much is kept for the backward pass; :meth:`filled` puts tensors back.
        """
        return self._replace(
            carry=template_of(self.carry),
            xs=template_of(self.xs),
            consts=template_of(self.consts),
            until=None,
            progress=None,
        )

    def filled(self, tensors: Iterable[torch.Tensor]) -> Loop:
        """Put ``tensors``, in the order of :meth:`tensors`, into a template."""
        supply = iter(tensors)
        return self._replace(
            carry=fill(self.carry, supply),
            xs=fill(self.xs, supply),
            consts=fill(self.consts, supply),
        )

    def as_constant(self) -> Loop:
        """Return the loop with all tensors detached."""
        return self._replace(
            carry=detached(self.carry),
            xs=detached(self.xs),
            consts=detached(self.consts),
            constant=True,
        )
