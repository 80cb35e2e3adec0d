"""LAMB: Adam with steps in proportion to the size of each tensor."""

from __future__ import annotations

from torchopt.authoring.origin import recorded
from torchopt.base import GradientTransformation, chain
from torchopt.blocks.add_decayed_weights import add_decayed_weights
from torchopt.blocks.descend import descend
from torchopt.blocks.scale_by_trust_ratio import scale_by_trust_ratio
from torchopt.rules.adam import scale_by_adam
from torchopt.typing import LearningRate, Mask, Scalar


@recorded
def lamb(
    lr: LearningRate = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    mask: Mask | None = None,
    moment_requires_grad: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    r"""LAMB: Adam whose update of each tensor gets the norm of the tensor.

    .. math::

        \theta_t = \theta_{t-1} - \eta \frac{\|\theta_{t-1}\|}{\|r_t\|} r_t, \qquad
        r_t = u_t + \lambda \theta_{t-1}

    with :math:`u_t` of :func:`scale_by_adam`; the ratio is 1 where one of the norms is 0. You et
    al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*, ICLR 2020,
    algorithm 2, with the identity as :math:`\phi`. Every float may be a 0-dim tensor that requires
    grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, >= 0.
        weight_decay: Factor :math:`\lambda` >= 0. ``update`` needs ``params`` in any case.
        eps_root: Added under that root, >= 0; see :func:`scale_by_adam`.
        mask: Which parameters decay; see :func:`torchopt.transform.masked`.
        moment_requires_grad: Let the initial moments require grad.
        maximize: Ascend instead of descend.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
    """
    direction = scale_by_adam(
        betas, eps, eps_root=eps_root, moment_requires_grad=moment_requires_grad
    )
    decayed = chain(direction, add_decayed_weights(weight_decay, mask))
    return descend(decayed, scale_by_trust_ratio(), lr=lr, maximize=maximize)
