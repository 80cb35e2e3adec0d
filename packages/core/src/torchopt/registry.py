"""The optimizers that exist, from which classes, tests and documentation are derived."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torchopt import rules
from torchopt.base import GradientTransformation

__all__ = ['OPTIMIZERS', 'OptimizerEntry']


class OptimizerEntry(NamedTuple):
    """One optimizer.

    Attributes:
        factory: Function that returns the gradient transformation, named as users call it.
        class_name: Name of the plain class; the differentiable one has ``Meta`` before it.
        torch_name: Name of the class in ``torch.optim``, under which both classes are found too.
    """

    factory: Callable[..., GradientTransformation]
    class_name: str
    torch_name: str

    @property
    def name(self) -> str:
        """Name of the factory."""
        return self.factory.__name__

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class's name, and its alias if it has one."""
        return tuple(dict.fromkeys((self.class_name, self.torch_name)))


OPTIMIZERS = (
    OptimizerEntry(rules.adadelta, 'AdaDelta', 'Adadelta'),
    OptimizerEntry(rules.adagrad, 'AdaGrad', 'Adagrad'),
    OptimizerEntry(rules.adam, 'Adam', 'Adam'),
    OptimizerEntry(rules.adamax, 'AdaMax', 'Adamax'),
    OptimizerEntry(rules.adamw, 'AdamW', 'AdamW'),
    OptimizerEntry(rules.radam, 'RAdam', 'RAdam'),
    OptimizerEntry(rules.rmsprop, 'RMSProp', 'RMSprop'),
    OptimizerEntry(rules.sgd, 'SGD', 'SGD'),
)
