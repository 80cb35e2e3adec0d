"""The plain optimizer classes, each with the arguments of its factory."""

# ruff: noqa: D101 - `arguments_of` gives each class its docstring.

from __future__ import annotations

from torchopt import rules
from torchopt.authoring.arguments import arguments_of
from torchopt.optim.optimizer import Optimizer
from torchopt.typing import ParamsLike

__all__ = [
    'ASGD',
    'LAMB',
    'SGD',
    'AdaDelta',
    'AdaFactor',
    'AdaGrad',
    'AdaMax',
    'Adadelta',
    'Adafactor',
    'Adagrad',
    'Adam',
    'AdamW',
    'Adamax',
    'Adan',
    'Lion',
    'Muon',
    'NAdam',
    'RAdam',
    'RMSProp',
    'RMSprop',
    'RProp',
    'Rprop',
]


class AdaDelta(Optimizer):
    @arguments_of(rules.adadelta)
    def __init__(self, params: ParamsLike) -> None: ...


class AdaFactor(Optimizer):
    @arguments_of(rules.adafactor)
    def __init__(self, params: ParamsLike) -> None: ...


class AdaGrad(Optimizer):
    @arguments_of(rules.adagrad)
    def __init__(self, params: ParamsLike) -> None: ...


class Adam(Optimizer):
    @arguments_of(rules.adam)
    def __init__(self, params: ParamsLike) -> None: ...


class AdaMax(Optimizer):
    @arguments_of(rules.adamax)
    def __init__(self, params: ParamsLike) -> None: ...


class AdamW(Optimizer):
    @arguments_of(rules.adamw)
    def __init__(self, params: ParamsLike) -> None: ...


class Adan(Optimizer):
    @arguments_of(rules.adan)
    def __init__(self, params: ParamsLike) -> None: ...


class ASGD(Optimizer):
    @arguments_of(rules.asgd)
    def __init__(self, params: ParamsLike) -> None: ...


class LAMB(Optimizer):
    @arguments_of(rules.lamb)
    def __init__(self, params: ParamsLike) -> None: ...


class Lion(Optimizer):
    @arguments_of(rules.lion)
    def __init__(self, params: ParamsLike) -> None: ...


class Muon(Optimizer):
    @arguments_of(rules.muon)
    def __init__(self, params: ParamsLike) -> None: ...


class NAdam(Optimizer):
    @arguments_of(rules.nadam)
    def __init__(self, params: ParamsLike) -> None: ...


class RAdam(Optimizer):
    @arguments_of(rules.radam)
    def __init__(self, params: ParamsLike) -> None: ...


class RMSProp(Optimizer):
    @arguments_of(rules.rmsprop)
    def __init__(self, params: ParamsLike) -> None: ...


class RProp(Optimizer):
    @arguments_of(rules.rprop)
    def __init__(self, params: ParamsLike) -> None: ...


class SGD(Optimizer):
    @arguments_of(rules.sgd)
    def __init__(self, params: ParamsLike) -> None: ...


Adadelta = AdaDelta
Adafactor = AdaFactor
Adagrad = AdaGrad
Adamax = AdaMax
RMSprop = RMSProp
Rprop = RProp
