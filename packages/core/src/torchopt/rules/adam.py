"""Adam and AMSGrad."""

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
@torch_fields(mu='exp_avg', nu='exp_avg_sq', nu_max='max_exp_avg_sq')
class ScaleByAdamState(NamedTuple):
    """State of :func:`scale_by_adam`.

    Attributes:
        mu: First moments, shaped like the parameters.
        nu: Second moments, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector.
        nu_max: With ``amsgrad``, the largest second moments so far; otherwise the empty tuple,
            which :func:`torch.vmap` accepts as a tree without tensors.
    """

    mu: TensorTree
    nu: TensorTree
    steps: torch.Tensor
    nu_max: TensorTree = ()


@recorded
def scale_by_adam(
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    *,
    eps_root: Scalar = 0.0,
    amsgrad: bool = False,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide the mean of the gradients by the root of the mean of their squares.

    .. math::

        \mu_t &= \beta_1 \mu_{t-1} + (1 - \beta_1) g_t, \qquad
        \nu_t = \beta_2 \nu_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{\mu_t / (1 - \beta_1^t)}
            {\sqrt{\nu_t / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}

    Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 1. With
    ``amsgrad``, the largest :math:`\nu` so far replaces :math:`\nu_t` in the denominator: Reddi et
    al., *On the Convergence of Adam and Beyond*, ICLR 2018, algorithm 2, in the form of
    :class:`torch.optim.Adam`.

    Args:
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root, >= 0.
        eps_root: :math:`\bar\epsilon` >= 0, added under the root. With a positive value the
            update is a smooth function of the gradients; with 0 its derivative is still finite,
            and right, where a gradient is 0.
        amsgrad: Keep the largest second moment.
        moment_requires_grad: Let the initial moments require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    beta1, beta2 = checks.decay_rates('betas', betas)
    checks.nonnegative('eps', eps)
    checks.nonnegative('eps_root', eps_root)
    mean_square = ema_of_square(beta2)

    def rule(
        g: torch.Tensor, mu: torch.Tensor, nu: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        *nu_max, correction1, correction2, shift = rest
        mu = ema(mu, g, beta1)
        nu = mean_square(nu, g)
        nu_max = [torch.maximum(largest, nu) for largest in nu_max]
        (bound,) = nu_max or (nu,)
        # The correction of mu is in the denominator, where it costs no operation of its own.
        denominator = torch.addcmul(shift, safe_sqrt(bound / correction2, eps_root), correction1)
        return mu / denominator, mu, nu, *nu_max

    def corrections(steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        correction1, correction2 = 1 - beta1**steps, 1 - beta2**steps
        return correction1, correction2, correction1 * eps

    return elementwise(
        ScaleByAdamState,
        rule,
        corrections,
        denominators={'eps': eps},
        unused=() if amsgrad else ('nu_max',),
        moment_requires_grad=moment_requires_grad,
    )


@accelerable
def adam(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """Adam; see :func:`scale_by_adam`.

    It takes the same steps as :class:`torch.optim.Adam`. Every float may be a 0-dim tensor that
    requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor >= 0; ``weight_decay * params`` is added to the gradients. Unless it
            is 0, ``update`` needs ``params``.
        eps_root: Added under that root, >= 0; see :func:`scale_by_adam`.
        amsgrad: Divide by the largest second moment so far.
        decoupled_weight_decay: Add the decay to the update instead, as :func:`adamw` does.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.

    Example:
        >>> import torch, torchopt
        >>> params = {'w': torch.ones(2)}
        >>> optimizer = torchopt.adam(lr=0.1)
        >>> updates, state = optimizer.update(
        ...     {'w': torch.tensor([2.0, -3.0])}, optimizer.init(params), inplace=False
        ... )
        >>> torchopt.apply_updates(params, updates)
        {'w': tensor([0.9000, 1.1000])}
    """
    return descend(
        scale_by_adam(
            betas,
            eps,
            eps_root=eps_root,
            amsgrad=amsgrad,
            moment_requires_grad=moment_requires_grad,
        ),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
