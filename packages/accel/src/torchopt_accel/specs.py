"""A kernel with its numbers and states, found from an optimizer's arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from torchopt import rules
from torchopt.base import GradientTransformation
from torchopt.blocks.scale_by_schedule import ScaleByScheduleState
from torchopt_accel.kernel_table import KERNELS, Arguments, Column, Numbers
from torchopt_accel.kernels import RULES, arranged

# A state among the states of a chain, and a field of it, by position.
_Place = tuple[int, int]
# The trees; the vector of step counts and the number of updates; the vectors of numbers.
_Places = tuple[list[_Place], tuple[_Place | None, _Place | None], list[_Place]]


class StateParts(NamedTuple):
    """The parts of an optimizer's state that a step changes.

    Attributes:
        trees: The state trees that the kernel takes.
        steps: Steps taken by each leaf, if the kernel needs them.
        updates_seen: Number of updates, if the learning rate is a schedule.
        numbers: Vectors with one number per leaf.
    """

    trees: Sequence[Any]
    steps: torch.Tensor | None
    updates_seen: torch.Tensor | None
    numbers: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, eq=False)
class Spec:
    """A kernel with its numbers, and the composite rule that it replaces.

    Attributes:
        rule: Name of the kernel.
        hyper: The numbers that ``kernels.RULES`` names for the rule, in that order.
        lr: The learning rate, a number or a 0-dim tensor; None if it is a schedule.
        schedule: The schedule of learning rates, if there is one.
        takes_params: Whether the kernel needs parameters, as it does where weights decay.
        columns: The state trees that the kernel takes, as (class of the state, attribute).
        counted: Class of the state whose ``steps`` the kernel needs.
        factory: Makes the composite rule from a learning rate.
        least: The number of leaves from which on a small differentiable step takes less time by the
            kernel than by the composite rule.
        numbers: The states that are one number per leaf, if there are any.
        takes_lr: Updates are multiplied by the learning rate; otherwise ``lr`` is 1.
        places: Where the parts are in the states that were read last, by the classes of these.
    """

    rule: str
    hyper: tuple[float, ...]
    lr: Any
    schedule: Callable[[torch.Tensor], Any] | None
    takes_params: bool
    columns: tuple[Column, ...]
    counted: type | None
    factory: Callable[[Any], GradientTransformation]
    least: int
    numbers: Numbers | None
    takes_lr: bool
    places: dict[Any, _Places] = field(default_factory=dict)

    @property
    def counts_updates(self) -> bool:
        """Whether the state of a schedule counts the updates."""
        return self.schedule is not None and not (self.numbers and self.numbers.has_rate)

    def with_lr(self, lr: float) -> Spec:
        """Return the spec with another learning rate, where it was a number before."""
        if not self.takes_lr:
            return self
        named = zip(RULES[self.rule].hyper, self.hyper)
        hyper = tuple(lr if name == 'lr' else value for name, value in named)
        return replace(self, lr=lr, hyper=hyper)

    def trees(self, state: Any) -> list[Any]:
        """Return the state trees that the kernel takes.

        Raises:
            ValueError: a part of the state is missing.
        """
        members = _members(state)
        return [members[place][entry] for place, entry in self._places(members)[0]]

    def read(self, state: Any) -> StateParts:
        """Return the parts of ``state`` that a step changes.

        Raises:
            ValueError: a part of the state is missing.
        """
        members = _members(state)
        trees, counts, kept = self._places(members)
        steps, seen = [None if at is None else members[at[0]][at[1]] for at in counts]
        numbers = [members[place][entry] for place, entry in kept] if kept else ()
        return StateParts([members[place][entry] for place, entry in trees], steps, seen, numbers)

    def replace(self, state: Any, parts: StateParts) -> Any:
        """Return ``state`` with new parts; a count that is None stays."""
        members = [*_members(state)]
        trees, counts, kept = self._places(members)
        new: dict[int, list[Any]] = {}
        changed = (*parts.trees, parts.steps, parts.updates_seen, *parts.numbers)
        for at, part in zip((*trees, *counts, *kept), changed):
            if at is not None and part is not None:
                place, entry = at
                if place not in new:
                    new[place] = [*members[place]]
                new[place][entry] = part
        for place, fields in new.items():
            members[place] = members[place]._make(fields)
        return tuple(members) if type(state) is tuple else members[0]

    def _places(self, members: Sequence[Any]) -> _Places:
        """Find the parts in the states of a chain's transformations.

        Raises:
            ValueError: a part is missing.
        """
        kinds = (*map(type, members),)
        if kinds not in self.places:
            kept = self.numbers
            self.places.clear()  # a state changes its classes seldom
            self.places[kinds] = (
                [_place(kinds, owner, name) for owner, name in self.columns],
                (
                    None if self.counted is None else _place(kinds, self.counted, 'steps'),
                    _place(kinds, ScaleByScheduleState, 'steps') if self.counts_updates else None,
                ),
                [_place(kinds, kept.owner, name) for name in kept.names] if kept else [],
            )
        return self.places[kinds]


def spec_of(name: str, arguments: Arguments) -> Spec | None:
    """Return the spec for ``torchopt.<name>(**arguments)``.

    None where no kernel computes it: ``amsgrad``, a ``mask``, a hyperparameter other than ``lr``
    that is a tensor, a tree of learning rates that updates are multiplied by.
    """
    kernel = KERNELS[name](arguments)
    if kernel is None:
        return None
    lr, decay = arguments['lr'] if kernel.takes_lr else 1.0, arguments['weight_decay']
    schedule = None
    if isinstance(lr, torch.Tensor):
        scalar = lr.dim() == 0
    elif callable(lr):
        lr, schedule, scalar = None, lr, True
    else:
        scalar = isinstance(lr, (int, float))
    if not scalar:
        return None
    if any(isinstance(number, torch.Tensor) for number in (decay, *kernel.hyper.values())):
        return None
    hyper = arranged(
        kernel.rule,
        # Tensors and schedules reach the kernel as a tensor of their own.
        lr=lr if isinstance(lr, (int, float)) else 0.0,
        sign=-1.0 if arguments['maximize'] else 1.0,
        coupled_decay=0.0 if kernel.decoupled else decay,
        decoupled_decay=decay if kernel.decoupled else kernel.shrinks,
        **kernel.hyper,
    )

    def factory(rate: Any) -> GradientTransformation:
        make = getattr(rules, name)
        made: GradientTransformation = make(
            **{**arguments, 'lr': rate, 'moment_requires_grad': False}
        )
        return made

    return Spec(
        kernel.rule,
        hyper,
        lr,
        schedule,
        decay != 0 or kernel.takes_params,
        kernel.columns,
        kernel.counted,
        factory,
        kernel.least,
        kernel.numbers,
        kernel.takes_lr,
    )


def _members(state: Any) -> Sequence[Any]:
    """Return the states of a chain's transformations, or the one state there is."""
    return state if type(state) is tuple else (state,)


def _place(kinds: Sequence[type], owner: Any, name: str) -> _Place:
    for place, kind in enumerate(kinds):
        if issubclass(kind, owner):
            return place, owner._fields.index(name)
    raise ValueError(
        f'state has no {owner.__name__}: pass the state that init or the last update returned'
    )
