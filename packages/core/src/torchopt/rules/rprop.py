"""Rprop: steps whose sizes adapt to the signs of the gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import clamp
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(grad='prev', size='step_size')
class ScaleByRpropState(NamedTuple):
    """State of :func:`scale_by_rprop`.

    Attributes:
        grad: The last gradients, 0 where their sign had changed; shaped like the parameters.
        size: The sizes of the last steps, shaped like the parameters.
    """

    grad: TensorTree
    size: TensorTree


@recorded
def scale_by_rprop(
    lr: LearningRate = 1e-2,
    etas: tuple[Scalar, Scalar] = (0.5, 1.2),
    step_sizes: tuple[Scalar, Scalar] = (1e-6, 50.0),
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Replace gradients by their signs, times a size for each entry.

    .. math::

        s_t = \min(\max(\eta_t s_{t-1}, s_{\min}), s_{\max}), \qquad
        u_t = \operatorname{sign}(g_t) \, s_t

    with :math:`\eta_t = \eta^+` where :math:`g_t g_{t-1} > 0`, :math:`\eta^-` where it is
    negative, and 1 where it is 0. Where it is negative, :math:`g_t` is replaced by 0, so that the
    entry takes no step, and keeps its size in the next. Riedmiller and Braun, *A Direct Adaptive
    Method for Faster Backpropagation Learning: The RPROP Algorithm*, ICNN 1993, in the form of
    :class:`torch.optim.Rprop`.

    Args:
        lr: Size of the first step, >= 0; of a schedule, the first value counts.
        etas: :math:`\eta^-`, between 0 and 1, and :math:`\eta^+`, greater than 1.
        step_sizes: The smallest and the largest size, >= 0.
        moment_requires_grad: Let the initial state require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    checks.learning_rate('lr', lr)
    smaller, larger = checks.several('etas', etas)
    checks.between('etas[0]', smaller, 0.0, 1.0)
    checks.between('etas[1]', larger, 1.0, math.inf)
    lowest, highest = checks.several('step_sizes', step_sizes)
    checks.nonnegative('step_sizes[0]', lowest)
    checks.nonnegative('step_sizes[1]', highest)

    def rule(g: torch.Tensor, last: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, ...]:
        agreement = (g * last).detach()
        zero = torch.zeros_like(g)
        grown = torch.where(agreement > 0, size * larger, size)
        size = clamp(torch.where(agreement < 0, size * smaller, grown), lowest, highest)
        g = torch.where(agreement < 0, zero, g)
        return g.sign() * size, g, size

    return elementwise(
        ScaleByRpropState,
        rule,
        initial={'size': lr},
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def rprop(
    lr: LearningRate = 1e-2,
    etas: tuple[Scalar, Scalar] = (0.5, 1.2),
    step_sizes: tuple[Scalar, Scalar] = (1e-6, 50.0),
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """Rprop, for gradients of the whole data set; see :func:`scale_by_rprop`.

    It takes the same steps as :class:`torch.optim.Rprop`, which has no weight decay. The sign has
    the derivative 0, so that no meta-gradient flows through the gradients. The meta-gradient with
    respect to ``lr``, ``etas`` and the bounds flows through the sizes of the steps. Every float may
    be a 0-dim tensor that requires grad; ``lr`` is used by ``init`` alone.

    Args:
        lr: Size of the first step, >= 0, a tree of tensors shaped like the parameters, or a
            schedule, of which the first value counts.
        etas: Factors by which a size shrinks, between 0 and 1, and grows, greater than 1.
        step_sizes: The smallest and the largest size of a step, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        moment_requires_grad: Let the initial state require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_rprop(lr, etas, step_sizes, moment_requires_grad=moment_requires_grad),
        lr=1.0,
        weight_decay=weight_decay,
        maximize=maximize,
    )
