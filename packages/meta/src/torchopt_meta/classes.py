"""The differentiable class of every optimizer; its arguments are those of the factory."""

from __future__ import annotations

from torch import nn

from torchopt import rules
from torchopt.authoring.arguments import Recipe, with_arguments_of
from torchopt_meta.optimizer import MetaOptimizer


class MetaAdaDelta(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.adadelta`."""

    @with_arguments_of(rules.adadelta)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaAdaGrad(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.adagrad`."""

    @with_arguments_of(rules.adagrad)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaAdam(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.adam`."""

    @with_arguments_of(rules.adam)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaAdaMax(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.adamax`."""

    @with_arguments_of(rules.adamax)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaAdamW(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.adamw`."""

    @with_arguments_of(rules.adamw)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaRAdam(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.radam`."""

    @with_arguments_of(rules.radam)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaRMSProp(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.rmsprop`."""

    @with_arguments_of(rules.rmsprop)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


class MetaSGD(MetaOptimizer):
    """The differentiable optimizer of :func:`torchopt.sgd`."""

    @with_arguments_of(rules.sgd)
    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, recipe)


MetaAdadelta = MetaAdaDelta
MetaAdagrad = MetaAdaGrad
MetaAdamax = MetaAdaMax
MetaRMSprop = MetaRMSProp
