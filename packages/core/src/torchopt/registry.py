"""The list of all optimizers, from which names, tests and documentation are derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torchopt import rules
from torchopt.base import GradientTransformation

__all__ = ['OPTIMIZERS', 'OptimizerEntry']


class OptimizerEntry(NamedTuple):
    """One optimizer, and the facts that the tests over all optimizers need.

    Attributes:
        factory: Function that returns the gradient transformation, under its public name.
        class_name: Name of the plain class; the differentiable class has the prefix ``Meta``.
        torch_name: Name of the class in ``torch.optim``, if torch has it. Both classes then have
            this name as an alias, and tests compare every step with torch.
        smooth: Whether the update varies continuously with the gradients. A rule that takes a sign
            is not smooth: its derivative with respect to the gradients is 0 wherever it exists, so
            that no meta-gradient flows through them. The docstring of such a factory says which
            meta-gradients remain. Tests then expect the derivative 0, and skip the points where
            the update jumps.
        elementwise: Whether each entry of the update depends only on the same entry of the
            gradient, the parameter and the state. Tests then read derivatives entry by entry.
        unlike_params: Names of the state fields whose floating-point tensors do not have the shape
            and dtype of a parameter, such as means of rows and columns. Tests treat every other
            floating-point tensor of a state as a moment of its parameter.
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
        """Whether ``torchopt-accel`` has kernels for it: the factory takes an option for them."""
        return 'use_accelerated_op' in inspect.signature(self.factory).parameters


OPTIMIZERS = (
    OptimizerEntry(rules.adadelta, 'AdaDelta', 'Adadelta'),
    OptimizerEntry(
        rules.adafactor,
        'AdaFactor',
        'Adafactor',
        elementwise=False,
        unlike_params=frozenset({'row', 'column', 'full'}),
    ),
    OptimizerEntry(rules.adagrad, 'AdaGrad', 'Adagrad'),
    OptimizerEntry(rules.adam, 'Adam', 'Adam'),
    OptimizerEntry(rules.adamax, 'AdaMax', 'Adamax'),
    OptimizerEntry(rules.adamw, 'AdamW', 'AdamW'),
    OptimizerEntry(rules.adan, 'Adan'),
    OptimizerEntry(rules.asgd, 'ASGD', 'ASGD', unlike_params=frozenset({'eta', 'mu'})),
    OptimizerEntry(rules.lamb, 'LAMB', elementwise=False),
    OptimizerEntry(rules.lion, 'Lion', smooth=False),
    OptimizerEntry(rules.muon, 'Muon', 'Muon', elementwise=False),
    OptimizerEntry(rules.nadam, 'NAdam', 'NAdam', unlike_params=frozenset({'mu_product'})),
    OptimizerEntry(rules.radam, 'RAdam', 'RAdam'),
    OptimizerEntry(rules.rmsprop, 'RMSProp', 'RMSprop'),
    OptimizerEntry(rules.rprop, 'RProp', 'Rprop', smooth=False),
    OptimizerEntry(rules.sgd, 'SGD', 'SGD'),
)
