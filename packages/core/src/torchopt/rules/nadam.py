"""NAdam: Adam with Nesterov momentum."""

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
@torch_fields(mu='exp_avg', nu='exp_avg_sq', numbers=['mu_product'])
class ScaleByNadamState(NamedTuple):
    """State of :func:`scale_by_nadam`.

    Attributes:
        mu: First moments, shaped like the parameters.
        nu: Second moments, shaped like the parameters.
        mu_product: Product of the momenta so far, a float64 vector with a number for each
            parameter. torch keeps it in the default dtype.
        steps: Steps taken by each parameter, an int64 vector.
    """

    mu: TensorTree
    nu: TensorTree
    mu_product: torch.Tensor
    steps: torch.Tensor


@recorded
def scale_by_nadam(
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    momentum_decay: Scalar = 4e-3,
    *,
    eps_root: Scalar = 0.0,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Scale gradients as Adam does, with Nesterov's look ahead along the momentum.

    With the moments :math:`\mu_t` and :math:`\nu_t` of :func:`scale_by_adam` and the decay
    :math:`\psi` of the momentum,

    .. math::

        b_t &= \beta_1 \left(1 - \tfrac{1}{2} \, 0.96^{t \psi}\right), \qquad
        \Pi_t = b_1 b_2 \cdots b_t, \\
        u_t &= \left(\frac{1 - b_t}{1 - \Pi_t} g_t + \frac{b_{t+1}}{1 - \Pi_{t+1}} \mu_t\right)
            \bigg/ \left(\sqrt{\frac{\nu_t}{1 - \beta_2^t} + \bar\epsilon} + \epsilon\right)

    Dozat, *Incorporating Nesterov Momentum into Adam*, ICLR workshop 2016, algorithm 8 of the
    report, in the form of :class:`torch.optim.NAdam`.

    Args:
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root, >= 0.
        momentum_decay: :math:`\psi` >= 0.
        eps_root: :math:`\bar\epsilon` >= 0, added under the root.
        moment_requires_grad: Let the initial moments require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2 = checks.decay_rates('betas', betas)
    checks.nonnegative('eps', eps)
    checks.nonnegative('momentum_decay', momentum_decay)
    checks.nonnegative('eps_root', eps_root)
    mean_square = ema_of_square(beta2)

    def rule(
        g: torch.Tensor,
        mu: torch.Tensor,
        nu: torch.Tensor,
        of_gradient: torch.Tensor,
        of_mu: torch.Tensor,
        correction: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        mu = ema(mu, g, beta1)
        nu = mean_square(nu, g)
        denominator = safe_sqrt(nu / correction, eps_root) + eps
        return (of_gradient * g + of_mu * mu) / denominator, mu, nu

    def factors(steps: torch.Tensor, product: torch.Tensor) -> tuple[torch.Tensor, ...]:
        now, ahead = (momentum(at, beta1, momentum_decay) for at in (steps, steps + 1))
        product = product * now
        return product, (1 - now) / (1 - product), ahead / (1 - product * ahead), 1 - beta2**steps

    return elementwise(
        ScaleByNadamState,
        rule,
        factors,
        numbers={'mu_product': 1.0},
        denominators={'eps': eps},
        moment_requires_grad=moment_requires_grad,
    )


def momentum(steps: torch.Tensor, beta1: Scalar, momentum_decay: Scalar) -> torch.Tensor:
    r"""Return the momenta :math:`b_t` of steps that are counted from 1."""
    return beta1 * (1 - 0.5 * 0.96 ** (steps * momentum_decay))


@accelerable
def nadam(
    lr: LearningRate = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum_decay: Scalar = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    eps_root: Scalar = 0.0,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """NAdam; see :func:`scale_by_nadam`.

    It takes the same steps as :class:`torch.optim.NAdam`, which keeps the product of the momenta
    in torch's default dtype: in float32, unless that has been changed, it rounds every step to
    seven digits. Here the product has the digits of float64. Every float may be a 0-dim tensor
    that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        momentum_decay: Decay of the momentum's reduction in the first steps, >= 0.
        decoupled_weight_decay: Add the decay to the update instead, as :func:`adamw` does.
        eps_root: Added under that root, >= 0.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_nadam(
            betas,
            eps,
            momentum_decay,
            eps_root=eps_root,
            moment_requires_grad=moment_requires_grad,
        ),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
