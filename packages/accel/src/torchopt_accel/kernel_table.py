"""Which kernel, with which hyperparameters and states, an optimizer's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchopt.blocks.trace import TraceState
from torchopt.rules.adadelta import ScaleByAdadeltaState
from torchopt.rules.adagrad import ScaleByRssState
from torchopt.rules.adam import ScaleByAdamState
from torchopt.rules.adamax import ScaleByAdamaxState
from torchopt.rules.adan import ScaleByAdanState
from torchopt.rules.asgd import AsgdState, decayed_rate, next_weight
from torchopt.rules.lion import ScaleByLionState
from torchopt.rules.nadam import ScaleByNadamState, momentum
from torchopt.rules.radam import ScaleByRadamState
from torchopt.rules.rmsprop import ScaleByRmsState, ScaleByStddevState
from torchopt.rules.rprop import ScaleByRpropState
from torchopt.typing import Scalar

Arguments = Mapping[str, Any]
Column = tuple[type, str]


@dataclass(frozen=True)
class Numbers:
    """States that are one float64 number per leaf, in vectors like the step counts.

    Attributes:
        owner: Class of the state that has them, and counts steps.
        names: Their fields. The first is the kernel's number. The second, if there is one, is the
            kernel's learning rate.
        advance: ``advance(steps, *rate, *numbers)`` returns the vectors after a step, from the step
            counts after it, in float64, the optimizer's learning rate if there is a second field,
            and the vectors before the step.
    """

    owner: type
    names: tuple[str, ...]
    advance: Callable[..., Sequence[torch.Tensor]]

    @property
    def has_rate(self) -> bool:
        """Whether the kernel's learning rate is one of them."""
        return len(self.names) > 1


@dataclass(frozen=True)
class Kernel:
    """The kernel that an optimizer's arguments ask for.

    Attributes:
        rule: Name of the kernel.
        hyper: The rule's own hyperparameters, under the names in ``csrc/rules/``.
        columns: The state trees that it takes, as (class of the state, attribute).
        counted: Class of the state whose ``steps`` it needs.
        decoupled: Weight decay bypasses the rule.
        shrinks: What the rule itself decays the parameters by, in the same way.
        takes_params: Whether the rule needs parameters even if no weights decay.
        least: See :class:`torchopt_accel.specs.Spec`.
        numbers: The states that are one number per leaf, if there are any.
        takes_lr: Updates are multiplied by the learning rate, which otherwise goes into ``init``
            alone.
    """

    rule: str
    hyper: Mapping[str, Any]
    columns: tuple[Column, ...] = ()
    counted: type | None = None
    decoupled: bool = False
    shrinks: float = 0.0
    takes_params: bool = False
    least: int = 1
    numbers: Numbers | None = None
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
    hyper = {**_betas(a), 'eps': a['eps'], 'eps_root': a['eps_root']}
    return Kernel('adan', hyper, columns, ScaleByAdanState, decoupled=True)


def _asgd(a: Arguments) -> Kernel | None:
    lambd, alpha, t0 = a['lambd'], a['alpha'], a['t0']
    if any(isinstance(value, torch.Tensor) for value in (lambd, alpha, t0)):
        return None

    def advance(steps: torch.Tensor, rate: Scalar, *_: torch.Tensor) -> Sequence[torch.Tensor]:
        return next_weight(steps, t0), decayed_rate(rate, steps, lambd, alpha)

    return Kernel(
        'asgd',
        {},
        ((AsgdState, 'average'),),
        AsgdState,
        shrinks=lambd,
        takes_params=True,
        numbers=Numbers(AsgdState, ('mu', 'eta'), advance),
    )


def _lion(a: Arguments) -> Kernel | None:
    if a['mask'] is not None:
        return None
    return Kernel('lion', _betas(a), ((ScaleByLionState, 'mu'),), decoupled=True)


def _nadam(a: Arguments) -> Kernel | None:
    hyper = {**_betas(a), **{name: a[name] for name in ('eps', 'eps_root', 'momentum_decay')}}

    def advance(steps: torch.Tensor, product: torch.Tensor) -> tuple[torch.Tensor]:
        return (product * momentum(steps, hyper['beta1'], hyper['momentum_decay']),)

    return Kernel(
        'nadam',
        hyper,
        ((ScaleByNadamState, 'mu'), (ScaleByNadamState, 'nu')),
        ScaleByNadamState,
        decoupled=a['decoupled_weight_decay'],
        numbers=Numbers(ScaleByNadamState, ('mu_product',), advance),
    )


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
    hyper = {'alpha': a['alpha'], 'eps': a['eps']}
    if a['centered']:
        rule += '_centered'
        columns = ((ScaleByStddevState, 'mu'), (ScaleByStddevState, 'nu'))
    if _acts(a['momentum']):
        rule += '_momentum'
        columns += ((TraceState, 'trace'),)
        hyper |= {'momentum': a['momentum'], 'dampening': 0.0, 'nesterov': a['nesterov']}
    return Kernel(rule, hyper, columns)


def _rprop(a: Arguments) -> Kernel | None:
    hyper = zip(('smaller', 'larger', 'lowest', 'highest'), (*a['etas'], *a['step_sizes']))
    columns = ((ScaleByRpropState, 'grad'), (ScaleByRpropState, 'size'))
    return Kernel('rprop', dict(hyper), columns, takes_lr=False)


def _sgd(a: Arguments) -> Kernel | None:
    if not _acts(a['momentum']):
        # Without weight decay, one product per leaf.
        return Kernel('sgd', {}, least=2 if _acts(a['weight_decay']) else 12)
    hyper = {name: a[name] for name in ('momentum', 'dampening', 'nesterov')}
    damped = isinstance(a['dampening'], torch.Tensor) or a['dampening'] != 0
    counted = TraceState if damped else None
    return Kernel('sgd_momentum', hyper, ((TraceState, 'trace'),), counted, least=2)


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
    'asgd': _asgd,
    'lion': _lion,
    'nadam': _nadam,
    'radam': _radam,
    'rmsprop': _rmsprop,
    'rprop': _rprop,
    'sgd': _sgd,
}
