"""Muon: momentum whose update of a matrix is orthogonalized."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.numerics import ema
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise, pointwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation, chain
from torchopt.blocks.descend import descend
from torchopt.blocks.orthogonalize import QUINTIC, orthogonalize
from torchopt.blocks.partition import partition
from torchopt.rules.adam import scale_by_adam
from torchopt.typing import LearningRate, Params, Scalar, TensorTree

AdjustLr = Literal['original', 'match_rms_adamw']


@saveable
@torch_fields(momentum='momentum_buffer')
class AveragedMomentumState(NamedTuple):
    """State of :func:`averaged_momentum`.

    Attributes:
        momentum: Averages of the gradients, shaped like the parameters.
    """

    momentum: TensorTree


@recorded
def averaged_momentum(
    momentum: Scalar = 0.95, nesterov: bool = True, *, moment_requires_grad: bool = False
) -> GradientTransformation:
    r"""Replace gradients by their moving average, which is not corrected for its beginning at 0.

    .. math::

        m_t = \mu m_{t-1} + (1 - \mu) g_t, \qquad
        u_t = m_t \text{ or, with Nesterov, } \mu m_t + (1 - \mu) g_t

    Args:
        momentum: The decay rate :math:`\mu`, in [0, 1).
        nesterov: Look ahead along the new average.
        moment_requires_grad: Let the initial averages require grad.

    Raises:
        ValueError: ``momentum`` is out of its range.
    """
    checks.decay_rate('momentum', momentum)

    def rule(g: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        m = ema(m, g, momentum)
        return (ema(m, g, momentum) if nesterov else m), m

    return elementwise(AveragedMomentumState, rule, moment_requires_grad=moment_requires_grad)


@recorded
def scale_by_shape(adjust_lr_fn: AdjustLr | None = None) -> GradientTransformation:
    r"""Multiply the update of an :math:`m \times n` matrix by a factor that its shape gives.

    Args:
        adjust_lr_fn: ``'original'``, and None: :math:`\sqrt{\max(1, m / n)}`, by Jordan et al.
            ``'match_rms_adamw'``: :math:`0.2 \sqrt{\max(m, n)}`, which gives updates the size of
            AdamW's: Liu et al., *Muon is Scalable for LLM Training*, 2025, equation 4.

    Raises:
        ValueError: ``adjust_lr_fn`` is none of these.
    """
    if adjust_lr_fn not in (None, 'original', 'match_rms_adamw'):
        raise ValueError(
            f"adjust_lr_fn must be 'original', 'match_rms_adamw' or None, got {adjust_lr_fn!r}"
        )

    def scaled(u: torch.Tensor) -> torch.Tensor:
        rows, columns = u.shape[-2:]
        if adjust_lr_fn == 'match_rms_adamw':
            return u * (0.2 * math.sqrt(max(rows, columns)))
        return u * math.sqrt(max(1, rows / columns))

    return pointwise(scaled)


@recorded
def muon(
    lr: LearningRate = 1e-3,
    weight_decay: Scalar = 0.1,
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Scalar, Scalar, Scalar] = QUINTIC,
    eps: Scalar = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: AdjustLr | None = None,
    *,
    others: GradientTransformation | None = None,
    iteration_dtype: torch.dtype | None = None,
    moment_requires_grad: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    r"""Muon for matrices, and Adam for parameters of fewer than two dimensions.

    .. math:: \theta_t = \theta_{t-1} - \eta (s O_t + \lambda \theta_{t-1})

    with :math:`O_t`, the orthogonalized :func:`averaged_momentum`, see
    :func:`torchopt.transform.orthogonalize`, and the factor :math:`s` of :func:`scale_by_shape`.
    Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.

    It takes the same steps as :class:`torch.optim.Muon`, which takes only matrices and iterates in
    bfloat16, with ``iteration_dtype=torch.bfloat16``; by default the iteration has the dtype of the
    parameters. A tensor of more than two dimensions is a stack of matrices, which are its last two:
    a convolution is a stack of its kernels. The weight decay has its whole derivative. Every float
    may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        weight_decay: Factor :math:`\lambda` >= 0. Unless it is 0, ``update`` needs ``params``.
        momentum: Decay rate of the average, in [0, 1).
        nesterov: Look ahead along the average.
        ns_coefficients: The three coefficients of the iteration.
        eps: Lower bound of the norm by which the iteration divides first, >= 0.
        ns_steps: Number of steps of the iteration, >= 0.
        adjust_lr_fn: The factor of the shape; see :func:`scale_by_shape`.
        others: The rule of scalars and vectors, from gradients to a direction; by default
            :func:`scale_by_adam`, which makes their steps those of :func:`adamw`. For another
            choice than by dimension, such as embeddings, use
            :func:`torchopt.transform.partition`.
        iteration_dtype: Dtype of the iteration.
        moment_requires_grad: Let the initial averages require grad.
        maximize: Ascend instead of descend.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
    """
    of_matrices = chain(
        averaged_momentum(momentum, nesterov, moment_requires_grad=moment_requires_grad),
        orthogonalize(ns_coefficients, ns_steps, eps, iteration_dtype=iteration_dtype),
        scale_by_shape(adjust_lr_fn),
    )
    if others is None:
        others = scale_by_adam(moment_requires_grad=moment_requires_grad)
    return descend(
        partition({'matrix': of_matrices, 'other': others}, _by_dimension),
        lr=lr,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        maximize=maximize,
    )


def _by_dimension(params: Params) -> Any:
    return pytree.tree_map(
        lambda leaf: 'matrix' if leaf is not None and leaf.dim() >= 2 else 'other',
        params,
        none_is_leaf=True,
    )
