"""AdaMax: Adam with the infinity norm."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import ema
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(mu='exp_avg', norm='exp_inf')
class ScaleByAdamaxState(NamedTuple):
    """State of :func:`scale_by_adamax`.

    Attributes:
        mu: First moments, shaped like the parameters.
        norm: Decayed maxima of the gradients' magnitudes, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector.
    """

    mu: TensorTree
    norm: TensorTree
    steps: torch.Tensor


@recorded
def scale_by_adamax(
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide the mean of the gradients by a decayed maximum of their magnitudes.

    .. math::

        \mu_t = \beta_1 \mu_{t-1} + (1 - \beta_1) g_t, \qquad
        n_t = \max(\beta_2 n_{t-1}, |g_t| + \epsilon), \qquad
        u_t = \frac{\mu_t}{(1 - \beta_1^t) n_t}

    Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 2, in the
    form of :class:`torch.optim.Adamax`.

    Args:
        betas: Decay rates of the mean and of the maximum, each in [0, 1).
        eps: Added to the magnitudes, >= 0.
        moment_requires_grad: Let the initial moments require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2 = checks.decay_rates('betas', betas)
    checks.nonnegative('eps', eps)

    def rule(
        g: torch.Tensor, mu: torch.Tensor, norm: torch.Tensor, correction: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        mu = ema(mu, g, beta1)
        norm = torch.maximum(norm * beta2, g.abs() + eps)
        return mu / correction / norm, mu, norm

    def corrections(steps: torch.Tensor) -> list[torch.Tensor]:
        return [1 - beta1**steps]

    return elementwise(
        ScaleByAdamaxState,
        rule,
        corrections,
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def adamax(
    lr: LearningRate = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """AdaMax; see :func:`scale_by_adamax`.

    It equals :class:`torch.optim.Adamax`. Every float may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the mean and of the maximum, each in [0, 1).
        eps: Added to the magnitudes, >= 0.
        weight_decay: Factor >= 0 of the parameters that is added to the gradients; ``update``
            then needs ``params``.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_adamax(betas, eps, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
