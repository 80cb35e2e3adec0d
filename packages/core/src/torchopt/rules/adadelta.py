"""AdaDelta."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import ema_of_square, safe_sqrt
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(nu='square_avg', delta='acc_delta')
class ScaleByAdadeltaState(NamedTuple):
    """State of :func:`scale_by_adadelta`.

    Attributes:
        nu: Means of the squared gradients, shaped like the parameters.
        delta: Means of the squared updates, shaped like the parameters.
    """

    nu: TensorTree
    delta: TensorTree


@recorded
def scale_by_adadelta(
    rho: Scalar = 0.9, eps: Scalar = 1e-6, *, moment_requires_grad: bool = False
) -> GradientTransformation:
    r"""Rescale gradients to the size of the previous updates.

    .. math::

        \nu_t = \rho \nu_{t-1} + (1 - \rho) g_t^2, \qquad
        u_t = \frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{\nu_t + \epsilon}} g_t, \qquad
        d_t = \rho d_{t-1} + (1 - \rho) u_t^2

    Zeiler, *ADADELTA: An Adaptive Learning Rate Method*, 2012, algorithm 1.

    Args:
        rho: Decay rate of the means, in [0, 1).
        eps: Added under the roots, >= 0.
        moment_requires_grad: Let the initial means require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    checks.decay_rate('rho', rho)
    checks.nonnegative('eps', eps)
    mean_square = ema_of_square(rho)

    def rule(g: torch.Tensor, nu: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nu = mean_square(nu, g)
        update = safe_sqrt(delta, eps) / safe_sqrt(nu, eps) * g
        return update, nu, mean_square(delta, update)

    return elementwise(
        ScaleByAdadeltaState,
        rule,
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def adadelta(
    lr: LearningRate = 1.0,
    rho: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """AdaDelta; see :func:`scale_by_adadelta`.

    It takes the same steps as :class:`torch.optim.Adadelta`. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        rho: Decay rate of the means, in [0, 1).
        eps: Added under the roots, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        moment_requires_grad: Let the initial means require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_adadelta(rho, eps, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
