"""ASGD: stochastic gradient descent whose iterates are averaged."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(average='ax', numbers=['mu'])
class AsgdState(NamedTuple):
    """State of :func:`asgd`.

    Attributes:
        average: Averages of the parameters, shaped like the parameters.
        eta: Learning rates of the next step: one for each parameter, or, if ``lr`` is a tree, one
            for each entry.
        mu: Weights of the next parameters in the averages, a float64 vector with a number for each
            parameter.
        steps: Steps taken by each parameter, an int64 vector.
    """

    average: TensorTree
    eta: TensorTree
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
        rate: Any,
        weight: torch.Tensor,
        steps: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        step = eta * (g + lambd * p)
        average = average + weight * (p - step - average)
        return step, average, torch.zeros_like(eta) + rate / (1 + lambd * rate * steps) ** alpha

    def weights(steps: torch.Tensor, mu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return 1 / (steps - t0).clamp_min(1), mu, steps

    return elementwise(
        AsgdState,
        rule,
        weights,
        lr=lr,
        takes_params=True,
        initial={'eta': lr},
        shapes={} if checks.is_tree(lr) else {'eta': lambda shape: ()},
        numbers={'mu': 1.0},
        moment_requires_grad=moment_requires_grad,
    )


@recorded
def asgd(
    lr: LearningRate = 1e-2,
    lambd: Scalar = 1e-4,
    alpha: Scalar = 0.75,
    t0: Scalar = 1e6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
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

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
    """
    return descend(
        scale_by_asgd(lr, lambd, alpha, t0, moment_requires_grad=moment_requires_grad),
        lr=1.0,
        weight_decay=weight_decay,
        maximize=maximize,
    )
