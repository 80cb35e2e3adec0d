"""Which kernel, with which numbers and states, an optimizer's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from torchopt import rules
from torchopt.base import GradientTransformation
from torchopt.blocks.scale_by_schedule import ScaleByScheduleState
from torchopt.blocks.trace import TraceState
from torchopt.rules.adadelta import ScaleByAdadeltaState
from torchopt.rules.adagrad import ScaleByRssState
from torchopt.rules.adam import ScaleByAdamState
from torchopt.rules.adamax import ScaleByAdamaxState
from torchopt.rules.radam import ScaleByRadamState
from torchopt.rules.rmsprop import ScaleByRmsState, ScaleByStddevState
from torchopt_accel.kernels import RULES, arranged

Arguments = Mapping[str, Any]
Column = tuple[type, str]
# A state among the states of a chain, and a field of it, by position.
_Place = tuple[int, int]
# The trees; the vector of step counts and the number of updates.
_Places = tuple[list[_Place], tuple[_Place | None, _Place | None]]


@dataclass(frozen=True)
class Kernel:
    """The kernel that an optimizer's arguments ask for.

    Attributes:
        rule: Name of the kernel.
        numbers: The rule's own hyperparameters, under the names in ``csrc/rules/``.
        columns: The state trees that it takes, as (class of the state, attribute).
        counted: Class of the state whose ``steps`` it needs.
        decoupled: Weight decay bypasses the rule.
        least: See :class:`Spec`.
    """

    rule: str
    numbers: Mapping[str, Any]
    columns: tuple[Column, ...] = ()
    counted: type | None = None
    decoupled: bool = False
    least: int = 1


class StateParts(NamedTuple):
    """The parts of an optimizer's state that a step changes.

    Attributes:
        trees: The state trees that the kernel takes.
        steps: Steps taken by each leaf, if the kernel needs them.
        updates_seen: Number of updates, if the learning rate is a schedule.
    """

    trees: Sequence[Any]
    steps: torch.Tensor | None
    updates_seen: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Spec:
    """A kernel with its numbers, and the composite rule that it replaces.

    Attributes:
        rule: Name of the kernel.
        hyper: The numbers that ``kernels.RULES`` names for the rule, in that order.
        lr: The learning rate, a number or a 0-dim tensor; None if it is a schedule.
        schedule: The schedule of learning rates, if there is one.
        decays: Whether weights decay, which needs parameters.
        columns: The state trees that the kernel takes, as (class of the state, attribute).
        counted: Class of the state whose ``steps`` the kernel needs.
        factory: Makes the composite rule from a learning rate.
        least: The number of leaves from which on a small differentiable step takes less time by the
            kernel than by the composite rule.
        places: Where the parts are in the states that were read last, by the classes of these.
    """

    rule: str
    hyper: tuple[float, ...]
    lr: Any
    schedule: Callable[[torch.Tensor], Any] | None
    decays: bool
    columns: tuple[Column, ...]
    counted: type | None
    factory: Callable[[Any], GradientTransformation]
    least: int
    places: dict[Any, _Places] = field(default_factory=dict)

    def with_lr(self, lr: float) -> Spec:
        """Return the spec with another learning rate, where it was a number before."""
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
        trees, counts = self._places(members)
        steps, seen = [None if at is None else members[at[0]][at[1]] for at in counts]
        return StateParts([members[place][entry] for place, entry in trees], steps, seen)

    def replace(self, state: Any, parts: StateParts) -> Any:
        """Return ``state`` with new parts; a count that is None stays."""
        members = [*_members(state)]
        trees, counts = self._places(members)
        new: dict[int, list[Any]] = {}
        for at, part in zip((*trees, *counts), (*parts.trees, parts.steps, parts.updates_seen)):
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
            self.places.clear()  # a state changes its classes seldom
            self.places[kinds] = (
                [_place(kinds, owner, name) for owner, name in self.columns],
                (
                    None if self.counted is None else _place(kinds, self.counted, 'steps'),
                    None if self.schedule is None else _place(kinds, ScaleByScheduleState, 'steps'),
                ),
            )
        return self.places[kinds]


def spec_of(name: str, arguments: Arguments) -> Spec | None:
    """Return the spec for ``torchopt.<name>(**arguments)``.

    None where no kernel computes it: ``amsgrad``, a ``mask``, a hyperparameter other than ``lr``
    that is a tensor, a tree of learning rates.
    """
    kernel = _KERNELS[name](arguments)
    lr, decay = arguments['lr'], arguments['weight_decay']
    schedule = None
    if isinstance(lr, torch.Tensor):
        scalar = lr.dim() == 0
    elif callable(lr):
        lr, schedule, scalar = None, lr, True
    else:
        scalar = isinstance(lr, (int, float))
    if kernel is None or not scalar:
        return None
    if any(isinstance(number, torch.Tensor) for number in (decay, *kernel.numbers.values())):
        return None
    hyper = arranged(
        kernel.rule,
        # Tensors and schedules reach the kernel as a tensor of their own.
        lr=lr if isinstance(lr, (int, float)) else 0.0,
        sign=-1.0 if arguments['maximize'] else 1.0,
        coupled_decay=0.0 if kernel.decoupled else decay,
        decoupled_decay=decay if kernel.decoupled else 0.0,
        **kernel.numbers,
    )

    def factory(rate: Any) -> GradientTransformation:
        make = getattr(rules, name)
        made: GradientTransformation = make(
            **{**arguments, 'lr': rate, 'moment_requires_grad': False}
        )
        return made

    decays = decay != 0
    return Spec(
        kernel.rule,
        hyper,
        lr,
        schedule,
        decays,
        kernel.columns,
        kernel.counted,
        factory,
        kernel.least,
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


def _adadelta(a: Arguments) -> Kernel | None:
    columns = ((ScaleByAdadeltaState, 'nu'), (ScaleByAdadeltaState, 'delta'))
    return Kernel('adadelta', {'rho': a['rho'], 'eps': a['eps']}, columns)


def _adagrad(a: Arguments) -> Kernel | None:
    decay = a['lr_decay']
    counted = None if isinstance(decay, (int, float)) and decay == 0 else ScaleByRssState
    columns = ((ScaleByRssState, 'sum_of_squares'),)
    return Kernel('adagrad', {'eps': a['eps'], 'lr_decay': decay}, columns, counted)


def _adam(a: Arguments) -> Kernel | None:
    if a['amsgrad'] or a.get('mask') is not None:
        return None
    return Kernel(
        'adam',
        {**_betas(a), 'eps': a['eps'], 'eps_root': a['eps_root']},
        ((ScaleByAdamState, 'mu'), (ScaleByAdamState, 'nu')),
        ScaleByAdamState,
        decoupled=a.get('decoupled_weight_decay', True),
    )


def _adamax(a: Arguments) -> Kernel | None:
    columns = ((ScaleByAdamaxState, 'mu'), (ScaleByAdamaxState, 'norm'))
    return Kernel('adamax', {**_betas(a), 'eps': a['eps']}, columns, ScaleByAdamaxState)


def _radam(a: Arguments) -> Kernel | None:
    return Kernel(
        'radam',
        {**_betas(a), 'eps': a['eps'], 'eps_root': a['eps_root']},
        ((ScaleByRadamState, 'mu'), (ScaleByRadamState, 'nu')),
        ScaleByRadamState,
        decoupled=a['decoupled_weight_decay'],
    )


def _rmsprop(a: Arguments) -> Kernel | None:
    rule = 'rmsprop'
    columns: tuple[Column, ...] = ((ScaleByRmsState, 'nu'),)
    numbers = {'alpha': a['alpha'], 'eps': a['eps']}
    if a['centered']:
        rule += '_centered'
        columns = ((ScaleByStddevState, 'mu'), (ScaleByStddevState, 'nu'))
    if _acts(a['momentum']):
        rule += '_momentum'
        columns += ((TraceState, 'trace'),)
        numbers |= {'momentum': a['momentum'], 'dampening': 0.0, 'nesterov': a['nesterov']}
    return Kernel(rule, numbers, columns)


def _sgd(a: Arguments) -> Kernel | None:
    if not _acts(a['momentum']):
        # Without weight decay, one product per leaf.
        return Kernel('sgd', {}, least=2 if _acts(a['weight_decay']) else 12)
    numbers = {name: a[name] for name in ('momentum', 'dampening', 'nesterov')}
    damped = isinstance(a['dampening'], torch.Tensor) or a['dampening'] != 0
    counted = TraceState if damped else None
    return Kernel('sgd_momentum', numbers, ((TraceState, 'trace'),), counted, least=2)


def _betas(a: Arguments) -> dict[str, Any]:
    return dict(zip(('beta1', 'beta2'), a['betas']))


def _acts(number: Any) -> bool:
    return isinstance(number, torch.Tensor) or number != 0


_KERNELS: Mapping[str, Callable[[Arguments], Kernel | None]] = {
    'adadelta': _adadelta,
    'adagrad': _adagrad,
    'adam': _adam,
    'adamax': _adamax,
    'adamw': _adam,
    'radam': _radam,
    'rmsprop': _rmsprop,
    'sgd': _sgd,
}
