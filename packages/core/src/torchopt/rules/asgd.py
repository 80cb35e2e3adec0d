"""ASGD: stochastic gradient descent whose iterates are averaged."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.rates import is_shared
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(average='ax', numbers=['eta', 'mu'])
class AsgdState(NamedTuple):
    """State of :func:`asgd`.

    Attributes:
        average: Averages of the parameters, shaped like the parameters.
        eta: Learning rates of the next step, a float64 vector with a number for each parameter. If
            ``lr`` is a tree, a tree with a number for each entry, shaped like the parameters.
        mu: Weights of the next parameters in the averages, a float64 vector with a number for each
            parameter.
        steps: Steps taken by each parameter, an int64 vector.
    """

    average: TensorTree
    eta: TensorTree | torch.Tensor
    mu: torch.Tensor
    steps: torch.Tensor


@recorded
def scale_by_asgd(
    lr: LearningRate = 1e-2,
    lambd: Scalar = 1e-4,
    alpha: Scalar = 0.75,
    t0: Scalar = 1e6,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Take steps that decay towards 0 and shrink, and average the parameters.

    .. math::

        \theta_t &= \theta_{t-1} - \eta_t (g_t + \lambda \theta_{t-1}), \qquad
        \eta_{t+1} = \frac{\eta}{(1 + \lambda \eta t)^\alpha}, \qquad \eta_1 = \eta \\
        \bar\theta_t &= \bar\theta_{t-1} + \mu_t (\theta_t - \bar\theta_{t-1}), \qquad
        \mu_{t+1} = \frac{1}{\max(1, t - t_0)}, \qquad \mu_1 = 1

    Polyak and Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992, in the form
    of :class:`torch.optim.ASGD`. The result is the step to subtract, learning rate included.

    Args:
        lr: :math:`\eta` >= 0, a schedule, or a tree of tensors shaped like the parameters. Its
            value counts from the next step on.
        lambd: :math:`\lambda` >= 0.
        alpha: :math:`\alpha` >= 0.
        t0: Number of steps after which the averages begin, >= 0.
        moment_requires_grad: Let the initial state require grad.

    Raises:
        ValueError: a hyperparameter is out of its range; at ``update``, ``params`` is missing.
    """
    checks.learning_rate('lr', lr)
    checks.nonnegative('lambd', lambd)
    checks.nonnegative('alpha', alpha)
    checks.nonnegative('t0', t0)

    def rule(
        g: torch.Tensor,
        p: torch.Tensor,
        average: torch.Tensor,
        eta: torch.Tensor,
        weight: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        step = eta * (g + lambd * p)
        # A 0-dim hyperparameter of a wider dtype promotes a 0-dim step.
        return step, torch.lerp(average, (p - step).to(average.dtype), weight)

    def numbers(
        steps: torch.Tensor, rate: Scalar, eta: torch.Tensor, mu: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return decayed_rate(rate, steps, lambd, alpha), next_weight(steps, t0), eta, mu

    def rule_with_rates(
        g: torch.Tensor,
        p: torch.Tensor,
        average: torch.Tensor,
        eta: torch.Tensor,
        rate: Any,
        weight: torch.Tensor,
        steps: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        new = decayed_rate(rate, steps, lambd, alpha)
        return *rule(g, p, average, eta, weight), torch.zeros_like(eta) + new

    def weights(steps: torch.Tensor, mu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return next_weight(steps, t0), mu, steps

    make = functools.partial(
        elementwise, AsgdState, takes_params=True, moment_requires_grad=moment_requires_grad
    )
    if is_shared(lr):
        return make(rule, numbers, numbers={'eta': lr, 'mu': 1.0}, numbers_lr=lr)
    return make(rule_with_rates, weights, lr=lr, initial={'eta': lr}, numbers={'mu': 1.0})


def decayed_rate(rate: Scalar, steps: torch.Tensor, lambd: Scalar, alpha: Scalar) -> torch.Tensor:
    r"""Return :math:`\eta_{t+1}` after steps that are counted from 1."""
    return rate / (1 + lambd * rate * steps) ** alpha


def next_weight(steps: torch.Tensor, t0: Scalar) -> torch.Tensor:
    r"""Return :math:`\mu_{t+1}` after steps that are counted from 1."""
    return 1 / (steps - t0).clamp_min(1)


@accelerable
def asgd(
    lr: LearningRate = 1e-2,
    lambd: Scalar = 1e-4,
    alpha: Scalar = 0.75,
    t0: Scalar = 1e6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """ASGD, which averages the parameters; see :func:`scale_by_asgd`.

    It takes the same steps as :class:`torch.optim.ASGD`. The averages are in the state:
    ``state[0].average``. ``update`` needs ``params``. Every float may be a 0-dim tensor that
    requires grad; the first learning rate is used by ``init``.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        lambd: Decay of the parameters and of the learning rate, >= 0.
        alpha: Power of the learning rate's decay, >= 0.
        t0: Number of steps after which the averages begin, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients.
        moment_requires_grad: Let the initial state require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_asgd(lr, lambd, alpha, t0, moment_requires_grad=moment_requires_grad),
        lr=1.0,
        weight_decay=weight_decay,
        maximize=maximize,
    )
