"""Which kernel, with which hyperparameters and states, an optimizer's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchopt.blocks.trace import TraceState
from torchopt.rules.adadelta import ScaleByAdadeltaState
from torchopt.rules.adagrad import ScaleByRssState
from torchopt.rules.adam import ScaleByAdamState
from torchopt.rules.adamax import ScaleByAdamaxState
from torchopt.rules.adan import ScaleByAdanState
from torchopt.rules.lion import ScaleByLionState
from torchopt.rules.radam import ScaleByRadamState
from torchopt.rules.rmsprop import ScaleByRmsState, ScaleByStddevState
from torchopt.rules.rprop import ScaleByRpropState

Arguments = Mapping[str, Any]
Column = tuple[type, str]


@dataclass(frozen=True)
class Kernel:
    """The kernel that an optimizer's arguments ask for.

    Attributes:
        rule: Name of the kernel.
        numbers: The rule's own hyperparameters, under the names in ``csrc/rules/``.
        columns: The state trees that it takes, as (class of the state, attribute).
        counted: Class of the state whose ``steps`` it needs.
        decoupled: Weight decay bypasses the rule.
        least: See :class:`torchopt_accel.specs.Spec`.
        takes_lr: Updates are multiplied by the learning rate, which otherwise goes into ``init``
            alone.
    """

    rule: str
    numbers: Mapping[str, Any]
    columns: tuple[Column, ...] = ()
    counted: type | None = None
    decoupled: bool = False
    least: int = 1
    takes_lr: bool = True


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


def _adan(a: Arguments) -> Kernel | None:
    if a['mask'] is not None:
        return None
    columns = tuple((ScaleByAdanState, name) for name in ('mu', 'delta', 'nu', 'grad'))
    numbers = {**_betas(a), 'eps': a['eps'], 'eps_root': a['eps_root']}
    return Kernel('adan', numbers, columns, ScaleByAdanState, decoupled=True)


def _lion(a: Arguments) -> Kernel | None:
    if a['mask'] is not None:
        return None
    return Kernel('lion', _betas(a), ((ScaleByLionState, 'mu'),), decoupled=True)


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


def _rprop(a: Arguments) -> Kernel | None:
    numbers = zip(('smaller', 'larger', 'lowest', 'highest'), (*a['etas'], *a['step_sizes']))
    columns = ((ScaleByRpropState, 'grad'), (ScaleByRpropState, 'size'))
    return Kernel('rprop', dict(numbers), columns, takes_lr=False)


def _sgd(a: Arguments) -> Kernel | None:
    if not _acts(a['momentum']):
        # Without weight decay, one product per leaf.
        return Kernel('sgd', {}, least=2 if _acts(a['weight_decay']) else 12)
    numbers = {name: a[name] for name in ('momentum', 'dampening', 'nesterov')}
    damped = isinstance(a['dampening'], torch.Tensor) or a['dampening'] != 0
    counted = TraceState if damped else None
    return Kernel('sgd_momentum', numbers, ((TraceState, 'trace'),), counted, least=2)


def _betas(a: Arguments) -> dict[str, Any]:
    return {f'beta{number}': beta for number, beta in enumerate(a['betas'], start=1)}


def _acts(number: Any) -> bool:
    return isinstance(number, torch.Tensor) or number != 0


KERNELS: Mapping[str, Callable[[Arguments], Kernel | None]] = {
    'adadelta': _adadelta,
    'adagrad': _adagrad,
    'adam': _adam,
    'adamax': _adamax,
    'adamw': _adam,
    'adan': _adan,
    'lion': _lion,
    'radam': _radam,
    'rmsprop': _rmsprop,
    'rprop': _rprop,
    'sgd': _sgd,
}
