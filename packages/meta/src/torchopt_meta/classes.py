"""The differentiable class of every optimizer; its arguments are the arguments of the factory."""

# ruff: noqa: D101 - `arguments_of` gives each class its docstring.

from __future__ import annotations

from torch import nn

from torchopt import rules
from torchopt.authoring.arguments import arguments_of
from torchopt_meta.optimizer import MetaOptimizer

__all__ = [
    'MetaASGD',
    'MetaAdaDelta',
    'MetaAdaFactor',
    'MetaAdaGrad',
    'MetaAdaMax',
    'MetaAdadelta',
    'MetaAdafactor',
    'MetaAdagrad',
    'MetaAdam',
    'MetaAdamW',
    'MetaAdamax',
    'MetaAdan',
    'MetaLAMB',
    'MetaLion',
    'MetaMuon',
    'MetaNAdam',
    'MetaRAdam',
    'MetaRMSProp',
    'MetaRMSprop',
    'MetaRProp',
    'MetaRprop',
    'MetaSGD',
]


class MetaAdaDelta(MetaOptimizer):
    @arguments_of(rules.adadelta)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdaFactor(MetaOptimizer):
    @arguments_of(rules.adafactor)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdaGrad(MetaOptimizer):
    @arguments_of(rules.adagrad)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdam(MetaOptimizer):
    @arguments_of(rules.adam)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdaMax(MetaOptimizer):
    @arguments_of(rules.adamax)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdamW(MetaOptimizer):
    @arguments_of(rules.adamw)
    def __init__(self, module: nn.Module) -> None: ...


class MetaAdan(MetaOptimizer):
    @arguments_of(rules.adan)
    def __init__(self, module: nn.Module) -> None: ...


class MetaASGD(MetaOptimizer):
    @arguments_of(rules.asgd)
    def __init__(self, module: nn.Module) -> None: ...


class MetaLAMB(MetaOptimizer):
    @arguments_of(rules.lamb)
    def __init__(self, module: nn.Module) -> None: ...


class MetaLion(MetaOptimizer):
    @arguments_of(rules.lion)
    def __init__(self, module: nn.Module) -> None: ...


class MetaMuon(MetaOptimizer):
    @arguments_of(rules.muon)
    def __init__(self, module: nn.Module) -> None: ...


class MetaNAdam(MetaOptimizer):
    @arguments_of(rules.nadam)
    def __init__(self, module: nn.Module) -> None: ...


class MetaRAdam(MetaOptimizer):
    @arguments_of(rules.radam)
    def __init__(self, module: nn.Module) -> None: ...


class MetaRMSProp(MetaOptimizer):
    @arguments_of(rules.rmsprop)
    def __init__(self, module: nn.Module) -> None: ...


class MetaRProp(MetaOptimizer):
    @arguments_of(rules.rprop)
    def __init__(self, module: nn.Module) -> None: ...


class MetaSGD(MetaOptimizer):
    @arguments_of(rules.sgd)
    def __init__(self, module: nn.Module) -> None: ...


MetaAdadelta = MetaAdaDelta
MetaAdafactor = MetaAdaFactor
MetaAdagrad = MetaAdaGrad
MetaAdamax = MetaAdaMax
MetaRMSprop = MetaRMSProp
MetaRprop = MetaRProp
