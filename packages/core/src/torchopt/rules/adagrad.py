"""AdaGrad."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.accelerated import accelerable
from torchopt.authoring import checks
from torchopt.authoring.numerics import safe_sqrt
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(sum_of_squares='sum', from_construction=True)
class ScaleByRssState(NamedTuple):
    """State of :func:`scale_by_rss`.

    Attributes:
        sum_of_squares: Sums of the squared gradients, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector; the empty tuple without
            ``lr_decay``, which is all that depends on it.
    """

    sum_of_squares: TensorTree
    steps: torch.Tensor | tuple[()]


@recorded
def scale_by_rss(
    initial_accumulator_value: Scalar = 0.0,
    eps: Scalar = 1e-10,
    *,
    lr_decay: Scalar = 0.0,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide gradients by the root of the sum of their squares.

    .. math::

        s_t = s_{t-1} + g_t^2, \qquad
        u_t = \frac{1}{1 + (t - 1) \delta} \frac{g_t}{\sqrt{s_t} + \epsilon}

    Duchi, Hazan and Singer, *Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization*, JMLR 12, 2011, section 1.2 (diagonal), in the form of
    :class:`torch.optim.Adagrad`.

    Args:
        initial_accumulator_value: First value of the sum, >= 0.
        eps: Added to the root, >= 0.
        lr_decay: :math:`\delta` >= 0.
        moment_requires_grad: Let the initial sum require grad.

    Raises:
        ValueError: a hyperparameter is out of its range.
    """
    checks.nonnegative('initial_accumulator_value', initial_accumulator_value)
    checks.nonnegative('eps', eps)
    checks.nonnegative('lr_decay', lr_decay)
    constant = isinstance(lr_decay, (int, float)) and lr_decay == 0

    def rule(
        g: torch.Tensor, total: torch.Tensor, *slowdown: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if g.is_sparse:
            update, total = _of_rows(g.coalesce(), total, eps)
        else:
            total = torch.addcmul(total, g, g)
            update = g / (safe_sqrt(total) + eps)
        for factor in slowdown:
            update = update / factor
        return update, total

    def slowdown(steps: torch.Tensor) -> list[torch.Tensor]:
        return [1 + (steps - 1) * lr_decay]

    return elementwise(
        ScaleByRssState,
        rule,
        None if constant else slowdown,
        denominators={'eps': eps},
        initial={'sum_of_squares': initial_accumulator_value},
        moment_requires_grad=moment_requires_grad,
        sparse=True,
    )


def _of_rows(
    g: torch.Tensor, total: torch.Tensor, eps: Scalar
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sparse update and the new sum for a sparse gradient, of whose rows alone."""
    total = total + g * g
    scale = safe_sqrt(total.sparse_mask(g).values()) + eps
    update = torch.sparse_coo_tensor(
        g.indices(), g.values() / scale, g.shape, is_coalesced=True, check_invariants=False
    )
    return update, total


@accelerable
def adagrad(
    lr: LearningRate = 1e-2,
    lr_decay: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    initial_accumulator_value: Scalar = 0.0,
    eps: Scalar = 1e-10,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """AdaGrad; see :func:`scale_by_rss`.

    It equals :class:`torch.optim.Adagrad`. Every float may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        lr_decay: Decay of the learning rate, >= 0.
        weight_decay: Factor >= 0 of the parameters that is added to the gradients; ``update``
            then needs ``params``.
        initial_accumulator_value: First value of the sum of squares, >= 0.
        eps: Added to the root of the sum, >= 0.
        moment_requires_grad: Let the initial sum require grad.
        maximize: Ascend instead of descend.
        use_accelerated_op: Use the fused kernels of ``torchopt-accel``.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
        ModuleNotFoundError: ``use_accelerated_op`` without ``torchopt-accel``.
    """
    return descend(
        scale_by_rss(
            initial_accumulator_value,
            eps,
            lr_decay=lr_decay,
            moment_requires_grad=moment_requires_grad,
        ),
        lr=lr,
        weight_decay=weight_decay,
        maximize=maximize,
    )
