"""The plain optimizer classes, each with the arguments of its factory."""

# ruff: noqa: D101 - `arguments_of` gives each class its docstring.

from __future__ import annotations

from torchopt import rules
from torchopt.authoring.arguments import arguments_of
from torchopt.optim.optimizer import Optimizer
from torchopt.typing import ParamsLike

__all__ = [
    'SGD',
    'AdaDelta',
    'AdaGrad',
    'AdaMax',
    'Adadelta',
    'Adagrad',
    'Adam',
    'AdamW',
    'Adamax',
    'NAdam',
    'RAdam',
    'RMSProp',
    'RMSprop',
]


class AdaDelta(Optimizer):
    @arguments_of(rules.adadelta)
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


class NAdam(Optimizer):
    @arguments_of(rules.nadam)
    def __init__(self, params: ParamsLike) -> None: ...


class RAdam(Optimizer):
    @arguments_of(rules.radam)
    def __init__(self, params: ParamsLike) -> None: ...


class RMSProp(Optimizer):
    @arguments_of(rules.rmsprop)
    def __init__(self, params: ParamsLike) -> None: ...


class SGD(Optimizer):
    @arguments_of(rules.sgd)
    def __init__(self, params: ParamsLike) -> None: ...


Adadelta = AdaDelta
Adagrad = AdaGrad
Adamax = AdaMax
RMSprop = RMSProp
