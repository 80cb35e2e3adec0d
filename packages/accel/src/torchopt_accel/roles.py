"""The flat list of one step's tensors: every way to take it apart and to join it.

A role is what a tensor is to the rule: gradient, parameter, first state, second state, and so on.
The list holds one tensor per leaf for each role, role after role: all gradients, then all
parameters if the step needs them, then all tensors of each state. Results have the same layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from torchopt_accel.kernels import RULES, OfRule, Role, StepArgs
from torchopt_accel.scalars import Maybe, Scalars
from torchopt_accel.specs import Spec

Tensors = Sequence[torch.Tensor]


class Mismatch(ValueError):
    """Tensors of one step don't fit together."""


@dataclass(eq=False)
class Call:
    """One step over a flat list: what to compute, and how the list is laid out.

    Attributes:
        spec: The kernel and its numbers.
        positions: Where in the vectors of step counts and of numbers each leaf has its entries.
        with_params: Whether the list has parameters.
    """

    spec: Spec
    positions: Sequence[int]
    with_params: bool

    @property
    def of_rule(self) -> OfRule:
        """What steps over any tensors have in common, as ``kernels.forward_at_once`` takes it."""
        spec, positions = self.spec, self.positions
        everywhere = positions == range(len(positions))
        number = RULES[spec.rule].number
        return number, self.with_params, spec.hyper, () if everywhere else positions

    @property
    def count(self) -> int:
        """The number of leaves."""
        return len(self.positions)

    def split(self, tensors: Sequence[Any]) -> list[Role]:
        """Return gradients, parameters (empty if the list has none) and the role of each state."""
        roles = split(tensors, 1 + self.with_params + len(self.spec.columns))
        if not self.with_params:
            roles.insert(1, [])
        return roles

    def args(self, scalars: Scalars, tensors: Tensors) -> StepArgs:
        """Return what the operators take."""
        grads, params, *states = self.split(tensors)
        lr, steps, numbers = scalars
        return StepArgs(grads, params, states, steps, numbers, self.positions, lr, self.spec.hyper)

    def wanted(self, needs: Sequence[bool], needs_lr: bool) -> list[bool]:
        """Tell for each role, then for ``lr``, whether any of its tensors needs a cotangent."""
        return [*map(any, self.split(needs)), needs_lr]

    def keep(self, grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
        """Return the cotangents of the wanted roles, given the cotangents of all roles."""
        return join(role for role, want in zip(self.split(grads), wanted) if want)

    def spread(self, results: Sequence[Maybe], wanted: Sequence[bool]) -> tuple[list[Maybe], Maybe]:
        """Undo :meth:`keep`, with None for what is not wanted; return also the cotangent of lr."""
        *roles, want_lr = wanted
        if not self.with_params:
            del roles[1]
        grads: list[Maybe] = []
        used = 0
        for want in roles:
            grads += results[used : used + self.count] if want else [None] * self.count
            used += self.count * want
        return grads, results[used] if want_lr else None

    def separate(self, given: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return the cotangents of a step's results, and the step's tensors, that follow them."""
        results = self.count * (1 + len(self.spec.columns))
        return given[:results], given[results:]


def split(tensors: Sequence[Any], roles: int) -> list[Role]:
    """Take a flat list apart into equally long roles.

    Raises:
        Mismatch: the roles would differ in length.
    """
    count, rest = divmod(len(tensors), roles) if roles else (0, len(tensors))
    if rest:
        raise Mismatch(f'{len(tensors)} tensors do not make {roles} roles')
    return [tensors[role * count : (role + 1) * count] for role in range(roles)]


def join(roles: Iterable[Role]) -> list[Any]:
    """Return the flat list."""
    return [*chain.from_iterable(roles)]


def gather(rows: Sequence[Sequence[Any]], leaves: Sequence[int]) -> list[Any]:
    """Return the flat list for some leaves, from one row per role with an entry for every leaf."""
    return [row[leaf] for row in rows for leaf in leaves]


def scatter(tensors: Sequence[Any], leaves: Sequence[int], rows: Sequence[list[Any]]) -> None:
    """Write a flat list to the places from which :func:`gather` takes it."""
    for role, row in zip(split(tensors, len(rows)), rows):
        for leaf, tensor in zip(leaves, role):
            row[leaf] = tensor
