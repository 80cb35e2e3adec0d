"""Which kernel, with which numbers, an optimizer's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

Arguments = Mapping[str, Any]
Column = tuple[type, str]


@dataclass(frozen=True)
class Kernel:
    """What one optimizer asks of the kernels.

    Attributes:
        rule: Name of the kernel.
        columns: The state trees that it takes, as (class of the state, attribute).
        numbers: Its own hyperparameters.
        counted: Class of the state whose ``steps`` it needs.
        decoupled: Weight decay bypasses the rule.
    """

    rule: str
    columns: tuple[Column, ...] = ()
    numbers: tuple[Any, ...] = ()
    counted: type | None = None
    decoupled: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """A kernel with all its numbers, and the composite rule that it stands for.

    Attributes:
        kernel: What the optimizer asks of the kernels.
        hyper: Learning rate, sign, coupled and decoupled weight decay, the kernel's own numbers.
        lr: The learning rate as given: a number, a 0-dim tensor or a schedule.
        decays: Whether parameters are needed.
        factory: Makes the composite rule from a learning rate.
    """

    kernel: Kernel
    hyper: tuple[float, ...]
    lr: Any
    decays: bool
    factory: Callable[[Any], GradientTransformation]


def plan(name: str, arguments: Arguments) -> Plan | None:
    """Return the plan for ``torchopt.<name>(**arguments)``.

    None where no kernel does it: ``amsgrad``, a ``mask``, a hyperparameter other than ``lr`` that
    is a tensor, a tree of learning rates.
    """
    kernel = _KERNELS[name](arguments)
    lr, decay = arguments['lr'], arguments['weight_decay']
    scalar = isinstance(lr, (int, float)) or callable(lr)
    if isinstance(lr, torch.Tensor):
        scalar = lr.dim() == 0
    if kernel is None or not scalar:
        return None
    numbers = (decay, *kernel.numbers)
    if any(isinstance(number, torch.Tensor) for number in numbers):
        return None
    hyper = (
        lr if isinstance(lr, (int, float)) else 0.0,
        -1.0 if arguments['maximize'] else 1.0,
        0.0 if kernel.decoupled else decay,
        decay if kernel.decoupled else 0.0,
        *kernel.numbers,
    )

    def factory(rate: Any) -> GradientTransformation:
        make = getattr(rules, name)
        made: GradientTransformation = make(
            **{**arguments, 'lr': rate, 'moment_requires_grad': False}
        )
        return made

    return Plan(kernel, tuple(map(float, hyper)), lr, decay != 0, factory)


def members(state: Any) -> list[Any]:
    """Return the states of a chain's transformations, or the one state there is."""
    return list(state) if type(state) is tuple else [state]


def find(state: Any, kind: type) -> Any:
    """Return the member of ``state`` that is of class ``kind``.

    Raises:
        ValueError: there is none.
    """
    for member in members(state):
        if isinstance(member, kind):
            return member
    raise ValueError(
        f'state has no {kind.__name__}: pass the state that init or the last update returned'
    )


def replace(state: Any, changes: Mapping[type, Mapping[str, Any]]) -> Any:
    """Return ``state`` with attributes of its members replaced, by the members' class."""
    replaced = [
        member._replace(**changes[type(member)]) if type(member) in changes else member
        for member in members(state)
    ]
    return tuple(replaced) if type(state) is tuple else replaced[0]


def schedule_count(state: Any) -> torch.Tensor:
    """Return the number of updates that a schedule has seen."""
    count: torch.Tensor = find(state, ScaleByScheduleState).steps
    return count


def _adadelta(a: Arguments) -> Kernel | None:
    columns = ((ScaleByAdadeltaState, 'nu'), (ScaleByAdadeltaState, 'delta'))
    return Kernel('adadelta', columns, (a['rho'], a['eps']))


def _adagrad(a: Arguments) -> Kernel | None:
    decay = a['lr_decay']
    counted = None if isinstance(decay, (int, float)) and decay == 0 else ScaleByRssState
    return Kernel('adagrad', ((ScaleByRssState, 'sum_of_squares'),), (a['eps'], decay), counted)


def _adam(a: Arguments) -> Kernel | None:
    if a['amsgrad'] or a.get('mask') is not None:
        return None
    return Kernel(
        'adam',
        ((ScaleByAdamState, 'mu'), (ScaleByAdamState, 'nu')),
        (*a['betas'], a['eps'], a['eps_root']),
        ScaleByAdamState,
        decoupled=a.get('decoupled_weight_decay', True),
    )


def _adamax(a: Arguments) -> Kernel | None:
    columns = ((ScaleByAdamaxState, 'mu'), (ScaleByAdamaxState, 'norm'))
    return Kernel('adamax', columns, (*a['betas'], a['eps']), ScaleByAdamaxState)


def _radam(a: Arguments) -> Kernel | None:
    return Kernel(
        'radam',
        ((ScaleByRadamState, 'mu'), (ScaleByRadamState, 'nu')),
        (*a['betas'], a['eps'], a['eps_root']),
        ScaleByRadamState,
        decoupled=a['decoupled_weight_decay'],
    )


def _rmsprop(a: Arguments) -> Kernel | None:
    rule = 'rmsprop'
    columns: tuple[Column, ...] = ((ScaleByRmsState, 'nu'),)
    numbers: tuple[Any, ...] = (a['alpha'], a['eps'])
    if a['centered']:
        rule += '_centered'
        columns = ((ScaleByStddevState, 'mu'), (ScaleByStddevState, 'nu'))
    if _moves(a['momentum']):
        rule += '_momentum'
        columns += ((TraceState, 'trace'),)
        numbers += (a['momentum'], 0.0, a['nesterov'])
    return Kernel(rule, columns, numbers)


def _sgd(a: Arguments) -> Kernel | None:
    if not _moves(a['momentum']):
        return Kernel('sgd')
    numbers = (a['momentum'], a['dampening'], a['nesterov'])
    damped = isinstance(a['dampening'], torch.Tensor) or a['dampening'] != 0
    counted = TraceState if damped else None
    return Kernel('sgd_momentum', ((TraceState, 'trace'),), numbers, counted)


def _moves(momentum: Any) -> bool:
    return isinstance(momentum, torch.Tensor) or momentum != 0


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
