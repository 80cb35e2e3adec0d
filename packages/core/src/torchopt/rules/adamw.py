"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from torchopt.accelerated import accelerable
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.rules.adam import scale_by_adam
from torchopt.typing import LearningRate, Mask, Scalar


@accelerable
def adamw(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    *,
    eps_root: Scalar = 0.0,
    mask: Mask | None = None,
    amsgrad: bool = False,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    r"""AdamW: Adam whose weight decay bypasses the moments.

    .. math:: \theta_t = \theta_{t-1} - \eta (u_t + \lambda \theta_{t-1})

    with :math:`u_t` of :func:`scale_by_adam`. Loshchilov and Hutter, *Decoupled Weight Decay
    Regularization*, ICLR 2019, algorithm 2, in the form of :class:`torch.optim.AdamW`. Every
    float may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor :math:`\lambda` >= 0; unless it is 0, ``update`` needs ``params``.
        eps_root: Added under that root, >= 0; see :func:`scale_by_adam`.
        mask: Which parameters decay; see :func:`torchopt.transform.masked`.
        amsgrad: Divide by the largest second moment so far.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
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
        decoupled_weight_decay=True,
        mask=mask,
        maximize=maximize,
    )
