"""RAdam: Adam with a rectified adaptive learning rate."""

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
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(mu='exp_avg', nu='exp_avg_sq')
class ScaleByRadamState(NamedTuple):
    """State of :func:`scale_by_radam`.

    Attributes:
        mu: First moments, shaped like the parameters.
        nu: Second moments, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector.
    """

    mu: TensorTree
    nu: TensorTree
    steps: torch.Tensor


@recorded
def scale_by_radam(
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Scale gradients as Adam does, once the variance of the scale is tractable.

    With the moments of :func:`scale_by_adam` and :math:`\hat\mu_t = \mu_t / (1 - \beta_1^t)`,

    .. math::

        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \\
        u_t &= \hat\mu_t
        \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
            {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}
        \frac{\sqrt{1 - \beta_2^t}}{\sqrt{\nu_t + \bar\epsilon} + \epsilon}
        \quad\text{if } \rho_t > 5, \text{ else } \hat\mu_t .

    Liu et al., *On the Variance of the Adaptive Learning Rate and Beyond*, ICLR 2020, algorithm
    2, in the form of :class:`torch.optim.RAdam`.

    Args:
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root, >= 0.
        eps_root: :math:`\bar\epsilon` >= 0, added under the root.
        moment_requires_grad: Let the initial moments require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2 = checks.decay_rates('betas', betas)
    checks.nonnegative('eps', eps)
    checks.nonnegative('eps_root', eps_root)
    mean_square = ema_of_square(beta2)

    def rule(
        g: torch.Tensor,
        mu: torch.Tensor,
        nu: torch.Tensor,
        correction: torch.Tensor,
        adaptive: torch.Tensor,
        plain: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        mu = ema(mu, g, beta1)
        nu = mean_square(nu, g)
        factor = adaptive / (safe_sqrt(nu, eps_root) + eps) + plain
        return mu / correction * factor, mu, nu

    def factors(steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return 1 - beta1**steps, *_rectification(steps, beta2)

    return elementwise(
        ScaleByRadamState,
        rule,
        factors,
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


def _rectification(t: torch.Tensor, beta2: Scalar) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors of the adaptive and of the plain step; one of the two is 0."""
    if isinstance(beta2, torch.Tensor):
        # In float32, 1 - beta2 would lose half of its digits.
        beta2 = beta2.to(t.dtype)
    power = beta2**t
    correction = 1 - power
    rho_inf = torch.zeros_like(t) + (2 / (1 - beta2) - 1)
    rho = rho_inf - 2 * t * power / correction
    rectified = rho > 5
    # The branch that is not taken must be finite, too: otherwise the derivative would be NaN.
    rho_inf = torch.where(rectified, rho_inf, 6.0)
    rho = torch.where(rectified, rho, 6.0)
    squared = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    adaptive = torch.where(rectified, (squared * correction).sqrt(), 0.0)
    return adaptive, (~rectified).to(t.dtype)


@accelerable
def radam(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    decoupled_weight_decay: bool = False,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """RAdam; see :func:`scale_by_radam`.

    It takes the same steps as :class:`torch.optim.RAdam`. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        eps_root: Added under that root, >= 0.
        decoupled_weight_decay: Add the decay to the update instead, as :func:`adamw` does.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_radam(betas, eps, eps_root=eps_root, moment_requires_grad=moment_requires_grad),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
