"""One step of an optimizer: its trees taken apart, its leaves grouped, its trees made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.columns import flatten_like, unflatten_like
from torchopt.authoring.inplace import must_not_write, overwrite
from torchopt.authoring.shards import PLAIN
from torchopt.authoring.steps import next_steps
from torchopt.authoring.torch_internals import transforming
from torchopt.authoring.update_marks import mark_update
from torchopt.typing import OptState, Params
from torchopt_accel.autograd import step
from torchopt_accel.choice import by_kind, kernel_exists
from torchopt_accel.internals import forward_mode
from torchopt_accel.operators import prepare as prepare_call
from torchopt_accel.platform import C
from torchopt_accel.progress import fit_kernels, next_numbers, rate_of
from torchopt_accel.roles import Call, Mismatch, gather, scatter
from torchopt_accel.scalars import Maybe, Scalars
from torchopt_accel.specs import Spec, StateParts
from torchopt_accel.spread import Spread

_PLAIN = {*PLAIN}


@dataclass(eq=False)
class Step:
    """One step of an optimizer, with its trees taken apart.

    Attributes:
        spec: The kernel and its numbers.
        updates: The tree of gradients.
        state: The optimizer's state.
        parts: The parts of ``state`` that the step changes.
        structure: The structure of all trees.
        grads: Gradients, one entry per leaf.
        params: No row, or one with a parameter per leaf.
        columns: One row per state, with one entry per leaf.
        groups: The leaves that go into one call, by position: one dtype, one device.
        spread: How the leaves are spread over ranks, if they are; the rows hold local parts.
        flat: The flat list of all leaves, if they go into one call.
    """

    spec: Spec
    updates: Any
    state: OptState
    parts: StateParts
    structure: pytree.PyTreeSpec
    grads: list[Any]
    params: list[list[Any]]
    columns: list[list[Any]]
    groups: Sequence[Sequence[int]]
    spread: Spread | None = None
    flat: tuple[torch.Tensor, ...] | None = None

    def update(self, inplace: bool) -> tuple[Any, OptState]:
        """Return updates and the next state.

        Args:
            inplace: Write them into the tensors of the trees, by core's rule: unless that would
                cut a graph.

        Raises:
            Mismatch: the tensors do not fit together.
        """
        scalars, parts = self._advanced()
        if not inplace or must_not_write(self.grads, self.columns, scalars.lr):
            new = self._computed(scalars, parts)
            mark_update(self.updates, new[0])
            return new
        with torch.no_grad():
            try:
                self._write(scalars, parts)
            except Mismatch:
                # Kernels can't write these tensors where they lie. Core can.
                written: tuple[Any, OptState] = overwrite(
                    (self.updates, self.state), self._computed(scalars, parts)
                )
                return written
        return self.updates, self.state

    def _write(self, scalars: Scalars, parts: StateParts) -> None:
        """Write updates and the next state into the tensors of the trees.

        Raises:
            Mismatch: the tensors do not fit together, or can't be written where they lie. Nothing
                has been written then.
        """
        if any(tensor.grad_fn is not None for tensor in self._tensors()):
            raise Mismatch('what is written must lose its graph')
        self._prepared(scalars, parts, apply=False)()

    def _tensors(self) -> Iterator[torch.Tensor]:
        """Return all gradients and states that take part."""
        for row in (self.grads, *self.columns):
            for group in self.groups:
                for leaf in group:
                    yield row[leaf]

    def _computed(self, scalars: Scalars, parts: StateParts) -> tuple[Any, OptState]:
        """Return new trees, differentiable."""
        results: list[Sequence[Any]]
        if self.flat is not None:
            count = len(self.grads)
            call = Call(self.spec, range(count), bool(self.params))
            plain = scalars.lr is None or C.takes(1, (scalars.lr,))
            new = step(call, scalars, self.flat, plain=plain)
            results = [new[at : at + count] for at in range(0, len(new), count)]
        else:
            results = [*self._computed_by_kind(scalars)]
        updates, *trees = self._trees(results, (self.updates, *parts.trees))
        return updates, self.spec.replace(self.state, StateParts(trees, *parts[1:]))

    def _trees(self, rows: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        """Return one tree per row, each in the container of an old tree."""
        kind = self.structure.type
        if all([type(tree) is kind for tree in old]):
            return [self.structure.unflatten(row) for row in rows]
        return unflatten_like(self.structure, rows, old)

    def _computed_by_kind(self, scalars: Scalars) -> list[list[Any]]:
        """Return new rows, after one call for each group of leaves."""
        rows = [self.grads, *self.params, *self.columns]
        results = [list(self.grads), *map(list, self.columns)]
        for group in self.groups:
            call = Call(self.spec, group, bool(self.params))
            scatter(step(call, scalars.of(group), gather(rows, group)), group, results)
        return results if self.spread is None else [*map(self.spread.whole, results)]

    def prepare(self) -> Callable[[], None]:
        """Validate the step; return the function that writes parameters and state.

        Raises:
            Mismatch: the tensors do not fit together, or can't be written where they lie.
        """
        scalars, parts = self._advanced()
        return self._prepared(scalars, parts, apply=True)

    def _prepared(self, scalars: Scalars, parts: StateParts, *, apply: bool) -> Callable[[], None]:
        if forward_mode():
            raise Mismatch('kernels write no tangents')
        rows = [self.grads, *self.params, *self.columns]
        commits = [
            prepare_call(
                Call(self.spec, group, bool(self.params)),
                scalars.of(group),
                gather(rows, group),
                apply=apply,
            )
            for group in self.groups
        ]

        def commit() -> None:
            for commit_group in commits:
                commit_group()
            if self.spread is not None:
                self.spread.count_writes()
            for old, new in zip(_vectors(self.parts), _vectors(parts)):
                if old is not None and new is not None:
                    old.copy_(new)

        return commit

    def _advanced(self) -> tuple[Scalars, StateParts]:
        """Return the step's scalars, and the parts with this step counted.

        Raises:
            Mismatch: kernels can't take the learning rate.
        """
        trees, steps, seen, numbers = self.parts
        if steps is not None:
            known = self.flat is not None and steps.shape == (len(self.grads),)
            steps = steps + 1 if known else next_steps(steps, self.grads)
        lr = rate_of(self.spec, self.parts)
        if seen is not None:
            seen = seen + 1
        if self.spread is not None and lr is not None:
            self.spread.require_constant(lr)
        if not numbers or steps is None:
            return Scalars(lr, steps, None), StateParts(trees, steps, seen, ())
        new = next_numbers(self.spec, self.parts, steps, self.grads)
        return Scalars(lr, steps, numbers[0]), StateParts(trees, steps, seen, new)


def _vectors(parts: StateParts) -> tuple[Maybe, ...]:
    return (parts.steps, parts.updates_seen, *parts.numbers)


def read_step(
    spec: Spec,
    updates: Any,
    state: OptState,
    params: Params | None,
    *,
    apply: bool = False,
) -> Step | None:
    """Take the trees apart; return None if they differ in structure or no kernel takes them.

    With ``apply``, parameters are needed even where no weights decay.
    """
    grads, structure = pytree.eager_flatten(updates, none_is_leaf=True)
    with_params = spec.takes_params or apply
    if with_params and params is None:
        return None
    try:
        parts = spec.read(state)
        columns = [_row(structure, tree) for tree in parts.trees]
        flat = [_row(structure, params)] if with_params else []
    except ValueError:
        return None
    if parts.numbers and not fit_kernels(parts.numbers, len(grads)):
        return None
    joined = (*chain(grads, *flat, *columns),)
    if not transforming() and C.takes(1 + len(flat) + len(columns), joined):
        everywhere = [range(len(grads))]
        return Step(
            spec, updates, state, parts, structure, grads, flat, columns, everywhere, None, joined
        )
    present = [leaf for leaf, grad in enumerate(grads) if grad is not None]
    spread = None
    if not {type(row[leaf]) for row in (grads, *columns, *flat) for leaf in present} <= _PLAIN:
        spread = Spread.found_in((grads, *columns, *flat), present)
        if spread is None:
            return None
        grads, *rows = (spread.local(row) for row in (grads, *columns, *flat))
        columns, flat = rows[: len(columns)], rows[len(columns) :]
    groups = by_kind(grads, present)
    if not all(kernel_exists(dtype, device) for dtype, device in groups):
        return None
    return Step(
        spec, updates, state, parts, structure, grads, flat, columns, [*groups.values()], spread
    )


def _row(structure: pytree.PyTreeSpec, tree: Any) -> list[Any]:
    """Return the leaves of a tree.

    Raises:
        ValueError: it has another structure.
    """
    alike = type(tree) is structure.type
    return structure.flatten_up_to(tree) if alike else flatten_like(structure, [('', tree)])[0]
