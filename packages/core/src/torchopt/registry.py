"""The optimizers that exist, from which names, tests and documentation are derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torchopt import rules
from torchopt.base import GradientTransformation

__all__ = ['OPTIMIZERS', 'OptimizerEntry']


class OptimizerEntry(NamedTuple):
    """One optimizer, with what the tests that run over all optimizers need to know.

    Attributes:
        factory: Function that returns the gradient transformation, named as users call it.
        class_name: Name of the plain class; the differentiable one has ``Meta`` before it.
        torch_name: Name of the class in ``torch.optim``, if it has one. Both classes are found
            under this name too, and every step is compared with torch.
        smooth: Whether the update is a continuous function of the gradients that varies with them.
            A rule that takes a sign is not smooth: its derivative with respect to the gradients is
            0 wherever there is one, so that no meta-gradient flows through them. The docstring of
            such a factory says what the meta-gradient is. Tests demand no other derivative, and
            none where the update jumps.
        elementwise: Whether an entry of the update depends on the same entry of the gradient, the
            parameter and the state alone. Tests then read derivatives entry by entry.
        unlike_params: Names of the fields of the state with floating-point tensors that do not have
            shape and dtype of a parameter, such as means of rows and columns. Tests take
            every other floating-point tensor of a state for a moment of its parameter.
    """

    factory: Callable[..., GradientTransformation]
    class_name: str
    torch_name: str | None = None
    smooth: bool = True
    elementwise: bool = True
    unlike_params: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name of the factory."""
        return self.factory.__name__

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class's name, and its alias if torch spells the name differently."""
        return tuple(dict.fromkeys((self.class_name, self.torch_name or self.class_name)))

    @property
    def fused(self) -> bool:
        """Whether ``torchopt-accel`` has kernels for it: the factory takes the option."""
        return 'use_accelerated_op' in inspect.signature(self.factory).parameters


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
