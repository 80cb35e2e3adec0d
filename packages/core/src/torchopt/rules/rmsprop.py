"""RMSProp."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import ema, ema_of_square, safe_sqrt
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.blocks.trace import trace
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(nu='square_avg')
class ScaleByRmsState(NamedTuple):
    """State of :func:`scale_by_rms`.

    Attributes:
        nu: Means of the squared gradients, shaped like the parameters.
    """

    nu: TensorTree


@saveable
@torch_fields(mu='grad_avg', nu='square_avg')
class ScaleByStddevState(NamedTuple):
    """State of :func:`scale_by_stddev`.

    Attributes:
        mu: Means of the gradients, shaped like the parameters.
        nu: Means of the squared gradients, shaped like the parameters.
    """

    mu: TensorTree
    nu: TensorTree


@recorded
def scale_by_rms(
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide gradients by the root of the mean of their squares.

    .. math::

        \nu_t = \alpha \nu_{t-1} + (1 - \alpha) g_t^2, \qquad
        u_t = \frac{g_t}{\sqrt{\nu_t} + \epsilon}

    Tieleman and Hinton, *Neural Networks for Machine Learning*, lecture 6e, 2012.

    Args:
        alpha: Decay rate of the mean, in [0, 1).
        eps: Added to the root, >= 0.
        initial_scale: Initial value of the mean, >= 0.
        moment_requires_grad: Let the initial mean require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    checks.decay_rate('alpha', alpha)
    checks.nonnegative('eps', eps)
    checks.nonnegative('initial_scale', initial_scale)
    mean_square = ema_of_square(alpha)

    def rule(g: torch.Tensor, nu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nu = mean_square(nu, g)
        return g / (safe_sqrt(nu) + eps), nu

    return elementwise(
        ScaleByRmsState,
        rule,
        initial={'nu': initial_scale},
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


@recorded
def scale_by_stddev(
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide gradients by their standard deviation around their mean.

    .. math::

        \mu_t = \alpha \mu_{t-1} + (1 - \alpha) g_t, \qquad
        \nu_t = \alpha \nu_{t-1} + (1 - \alpha) g_t^2, \qquad
        u_t = \frac{g_t}{\sqrt{\nu_t - \mu_t^2} + \epsilon}

    Graves, *Generating Sequences With Recurrent Neural Networks*, 2013, equations 38 to 42.

    Args:
        alpha: Decay rate of the means, in [0, 1).
        eps: Added to the standard deviation, >= 0.
        initial_scale: Initial value of the mean of the squares, >= 0.
        moment_requires_grad: Let the initial means require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    checks.decay_rate('alpha', alpha)
    checks.nonnegative('eps', eps)
    checks.nonnegative('initial_scale', initial_scale)
    mean_square = ema_of_square(alpha)

    def rule(g: torch.Tensor, mu: torch.Tensor, nu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mu = ema(mu, g, alpha)
        nu = mean_square(nu, g)
        return g / (safe_sqrt(torch.addcmul(nu, mu, mu, value=-1)) + eps), mu, nu

    return elementwise(
        ScaleByStddevState,
        rule,
        initial={'nu': initial_scale},
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def rmsprop(
    lr: LearningRate = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
    *,
    initial_scale: Scalar = 0.0,
    nesterov: bool = False,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """RMSProp, optionally centred and with momentum; see :func:`scale_by_rms`.

    It takes the same steps as :class:`torch.optim.RMSprop`, which has no Nesterov momentum. Every
    float may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        alpha: Decay rate of the means, in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        momentum: Decay of the momentum buffer, >= 0; see :func:`torchopt.transform.trace`.
        centered: Divide by the standard deviation; see :func:`scale_by_stddev`.
        initial_scale: Initial value of the mean of the squares, >= 0.
        nesterov: Look ahead along the momentum buffer.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    scale_by = scale_by_stddev if centered else scale_by_rms
    return descend(
        scale_by(alpha, eps, initial_scale, moment_requires_grad=moment_requires_grad),
        trace(momentum, nesterov=nesterov, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
