"""Adan: adaptive Nesterov momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import add_scaled, ema, ema_of_square, safe_sqrt
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Mask, Scalar, TensorTree


@saveable
class ScaleByAdanState(NamedTuple):
    """State of :func:`scale_by_adan`.

    Attributes:
        mu: Averages of the gradients, shaped like the parameters.
        delta: Averages of the differences of successive gradients, shaped like the parameters.
        nu: Averages of the squares of gradients that look ahead, shaped like the parameters.
        grad: The last gradients, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector.
    """

    mu: TensorTree
    delta: TensorTree
    nu: TensorTree
    grad: TensorTree
    steps: torch.Tensor


@recorded
def scale_by_adan(
    betas: tuple[Scalar, Scalar, Scalar] = (0.98, 0.92, 0.99),
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 1e-8,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Scale gradients as Adam does, with a Nesterov momentum that estimates the next gradient.

    With :math:`\Delta_t = g_t - g_{t-1}`, which is 0 at the first step,

    .. math::

        \mu_t &= \beta_1 \mu_{t-1} + (1 - \beta_1) g_t, \qquad
        \delta_t = \beta_2 \delta_{t-1} + (1 - \beta_2) \Delta_t, \\
        \nu_t &= \beta_3 \nu_{t-1} + (1 - \beta_3) (g_t + \beta_2 \Delta_t)^2, \\
        u_t &= \left(\frac{\mu_t}{1 - \beta_1^t} + \beta_2 \frac{\delta_t}{1 - \beta_2^t}\right)
            \bigg/ \left(\sqrt{\frac{\nu_t}{1 - \beta_3^t} + \bar\epsilon} + \epsilon\right)

    Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*,
    2022, algorithm 1, with the bias corrections of the authors' program. The paper's betas are
    1 minus the betas here.

    Args:
        betas: Decay rates of the three averages, each in [0, 1).
        eps: Added to the root, >= 0.
        eps_root: :math:`\bar\epsilon` >= 0, added under the root.
        moment_requires_grad: Let the initial averages require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2, beta3 = checks.decay_rates('betas', betas, 3)
    checks.nonnegative('eps', eps)
    checks.nonnegative('eps_root', eps_root)
    mean_square = ema_of_square(beta3)

    def rule(
        g: torch.Tensor,
        mu: torch.Tensor,
        delta: torch.Tensor,
        nu: torch.Tensor,
        last: torch.Tensor,
        later: torch.Tensor,
        *corrections: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        of_mu, of_delta, of_nu = corrections
        difference = later * (g - last)
        mu = ema(mu, g, beta1)
        delta = ema(delta, difference, beta2)
        nu = mean_square(nu, add_scaled(g, difference, beta2))
        denominator = safe_sqrt(nu / of_nu, eps_root) + eps
        u = add_scaled(mu / of_mu, delta / of_delta, beta2) / denominator
        # A copy, because an update in place writes into the gradient first.
        return u, mu, delta, nu, g.clone()

    def factors(steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        later = (steps > 1).to(steps.dtype)
        return later, 1 - beta1**steps, 1 - beta2**steps, 1 - beta3**steps

    return elementwise(
        ScaleByAdanState,
        rule,
        factors,
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def adan(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar, Scalar] = (0.98, 0.92, 0.99),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 1e-8,
    mask: Mask | None = None,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """Adan; see :func:`scale_by_adan`.

    Weights decay as in :func:`adamw`, as optax has it; the paper's step, which divides by
    ``1 + lr * weight_decay`` instead, agrees to first order. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the three averages, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the update. Unless it is
            0, ``update`` needs ``params``.
        eps_root: Added under that root, >= 0.
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
        scale_by_adan(betas, eps, eps_root=eps_root, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        mask=mask,
        maximize=maximize,
    )
