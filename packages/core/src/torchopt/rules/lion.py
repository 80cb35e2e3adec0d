"""Lion."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import ema
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Mask, Scalar, TensorTree


@saveable
class ScaleByLionState(NamedTuple):
    """State of :func:`scale_by_lion`.

    Attributes:
        mu: Moving averages of the gradients, shaped like the parameters.
    """

    mu: TensorTree


@recorded
def scale_by_lion(
    betas: tuple[Scalar, Scalar] = (0.9, 0.99), *, moment_requires_grad: bool = False
) -> GradientTransformation:
    r"""Replace gradients by the sign of an average of the gradients.

    .. math::

        u_t = \operatorname{sign}(\beta_1 \mu_{t-1} + (1 - \beta_1) g_t), \qquad
        \mu_t = \beta_2 \mu_{t-1} + (1 - \beta_2) g_t

    Chen et al., *Symbolic Discovery of Optimization Algorithms*, NeurIPS 2023, algorithm 2.

    Args:
        betas: Decay rates of the average in the update and of the average in the state, each in
            [0, 1).
        moment_requires_grad: Let the initial averages require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2 = checks.decay_rates('betas', betas)

    def rule(g: torch.Tensor, mu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ema(mu, g, beta1).sign(), ema(mu, g, beta2)

    return elementwise(ScaleByLionState, rule, moment_requires_grad=moment_requires_grad)


@accelerable
def lion(
    lr: LearningRate = 1e-4,
    betas: tuple[Scalar, Scalar] = (0.9, 0.99),
    weight_decay: Scalar = 0.0,
    *,
    mask: Mask | None = None,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """Lion: steps of one size, in the direction of a sign; see :func:`scale_by_lion`.

    The sign has the derivative 0, so that no meta-gradient flows through the gradients or
    ``betas``. The meta-gradient with respect to the learning rate, the weight decay and the
    initial parameters flows through the rest of the step. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two averages, each in [0, 1).
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the update. Unless it is
            0, ``update`` needs ``params``. optax has 1e-3 here.
        mask: Which parameters decay; see :func:`torchopt.transform.masked`.
        moment_requires_grad: Let the initial averages require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_lion(betas, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        mask=mask,
        maximize=maximize,
    )
