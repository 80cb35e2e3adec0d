"""Stochastic gradient descent."""

from __future__ import annotations

from torchopt.accelerated import accelerable
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.blocks.trace import trace
from torchopt.typing import LearningRate, Scalar


@accelerable
def sgd(
    lr: LearningRate = 1e-3,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """Stochastic gradient descent, optionally with momentum; see :func:`torchopt.transform.trace`.

    It takes the same steps as :class:`torch.optim.SGD`. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        momentum: Decay of the momentum buffer, >= 0.
        dampening: From 0 to 1; a gradient enters the buffer with the factor ``1 - dampening``.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        nesterov: Look ahead along the buffer; needs a momentum and no dampening.
        moment_requires_grad: Let the initial buffer require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        trace(momentum, dampening, nesterov, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
