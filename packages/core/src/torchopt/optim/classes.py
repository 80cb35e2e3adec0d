"""The plain class of every optimizer; its arguments are those of the factory."""

from __future__ import annotations

from torchopt import rules
from torchopt.authoring.arguments import Recipe, with_arguments_of
from torchopt.optim.optimizer import Optimizer
from torchopt.typing import ParamsLike


class AdaDelta(Optimizer):
    """The plain optimizer of :func:`torchopt.adadelta`."""

    @with_arguments_of(rules.adadelta)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class AdaGrad(Optimizer):
    """The plain optimizer of :func:`torchopt.adagrad`."""

    @with_arguments_of(rules.adagrad)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class Adam(Optimizer):
    """The plain optimizer of :func:`torchopt.adam`."""

    @with_arguments_of(rules.adam)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class AdaMax(Optimizer):
    """The plain optimizer of :func:`torchopt.adamax`."""

    @with_arguments_of(rules.adamax)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class AdamW(Optimizer):
    """The plain optimizer of :func:`torchopt.adamw`."""

    @with_arguments_of(rules.adamw)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class RAdam(Optimizer):
    """The plain optimizer of :func:`torchopt.radam`."""

    @with_arguments_of(rules.radam)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class RMSProp(Optimizer):
    """The plain optimizer of :func:`torchopt.rmsprop`."""

    @with_arguments_of(rules.rmsprop)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


class SGD(Optimizer):
    """The plain optimizer of :func:`torchopt.sgd`."""

    @with_arguments_of(rules.sgd)
    def __init__(self, params: ParamsLike, recipe: Recipe) -> None:
        super().__init__(params, recipe)


Adadelta = AdaDelta
Adagrad = AdaGrad
Adamax = AdaMax
RMSprop = RMSProp
