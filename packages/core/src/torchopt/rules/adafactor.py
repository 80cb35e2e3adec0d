"""Adafactor: adaptive steps with second moments by row and column."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import clamp, norm
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation
from torchopt.blocks.descend import descend
from torchopt.typing import LearningRate, Scalar, TensorTree


@saveable
@torch_fields(row='row_var', column='col_var', full='variance')
class AdafactorState(NamedTuple):
    """State of :func:`adafactor`.

    Attributes:
        row: Means of the squares by row, of shape ``[..., m, 1]``; empty for vectors and scalars.
        column: Means of the squares by column, of shape ``[..., 1, n]``; empty for vectors and
            scalars.
        full: Means of the squares of vectors and scalars, in their shape; empty for all others.
        steps: Steps taken by each parameter, an int64 vector.
    """

    row: TensorTree
    column: TensorTree
    full: TensorTree
    steps: torch.Tensor


@recorded
def scale_by_adafactor(
    lr: LearningRate = 1e-2,
    beta2_decay: Scalar = -0.8,
    eps: tuple[Scalar | None, Scalar] = (None, 1e-3),
    d: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Divide gradients by roots of second moments that are products of rows and columns.

    With :math:`\beta_t = 1 - t^\gamma`, the averages of :math:`g^2` by row, :math:`R`, and by
    column, :math:`C`, and :math:`\operatorname{rms}(x) = \|x\| / \sqrt{\text{numel}}`,

    .. math::

        \hat V_t &= \frac{R_t C_t}{\max(\operatorname{mean}(R_t), \epsilon_1)}, \qquad
        u_t = \frac{g_t}{\sqrt{\max(\hat V_t, \epsilon_1^2)}}, \\
        \theta_t &= \theta_{t-1} - \eta \lambda \theta_{t-1}
            - \frac{\min(\eta, 1 / \sqrt t) \max(\epsilon_2, \operatorname{rms}(\theta_{t-1}))}
                {\max(1, \operatorname{rms}(u_t) / d)} u_t

    Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, ICML 2018,
    algorithms 4 and 5, in the form of :class:`torch.optim.Adafactor`. The second moments of
    vectors are kept in full. A tensor of more than two dimensions is a stack of matrices. The
    result is the step to subtract, learning rate included.

    Args:
        lr: :math:`\eta` >= 0, a schedule, or a tree of tensors shaped like the parameters.
        beta2_decay: :math:`\gamma` <= 0.
        eps: :math:`\epsilon_1`, by default the machine epsilon of the arithmetic (float32 for
            16-bit parameters), and :math:`\epsilon_2`, each >= 0.
        d: Largest root mean square of an update, > 0.
        weight_decay: :math:`\lambda` >= 0.
        moment_requires_grad: Let the initial averages require grad.

    Raises:
        ValueError: a hyperparameter is out of its range; at ``update``, ``params`` is missing.
    """
    checks.learning_rate('lr', lr)
    checks.nonpositive('beta2_decay', beta2_decay)
    floor, least = checks.several('eps', eps)
    if floor is not None:
        checks.nonnegative('eps[0]', floor)
    checks.nonnegative('eps[1]', least)
    checks.positive('d', d)
    checks.nonnegative('weight_decay', weight_decay)

    def rule(
        g: torch.Tensor,
        p: torch.Tensor,
        row: torch.Tensor,
        column: torch.Tensor,
        full: torch.Tensor,
        rate: Any,
        weight: torch.Tensor,
        largest_rate: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        eps1 = torch.finfo(g.dtype).eps if floor is None else floor
        square = g * g
        if g.dim() > 1:
            row = row + weight * (_mean(square, -1) - row)
            column = column + weight * (_mean(square, -2) - column)
            estimate = row * column / clamp(_mean(row, -2), eps1)
        else:
            estimate = full = full + weight * (square - full)
        u = g * clamp(estimate, eps1 * eps1).rsqrt()
        size = clamp(_rms(p), least) * clamp(largest_rate, highest=rate)
        step = size / clamp(_rms(u) / d, 1.0) * u
        return step + weight_decay * rate * p, row, column, full

    def weights(steps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return steps**beta2_decay, steps.rsqrt()

    return elementwise(
        AdafactorState,
        rule,
        weights,
        lr=lr,
        takes_params=True,
        denominators={} if floor is None else {'eps[0]**2': floor**2},
        shapes={'row': _row, 'column': _column, 'full': _full},
        moment_requires_grad=moment_requires_grad,
    )


def _row(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:-1], 1) if len(shape) > 1 else (0,)


def _column(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else (0,)


def _full(shape: torch.Size) -> tuple[int, ...]:
    return (0,) if len(shape) > 1 else tuple(shape)


def _mean(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.sum(dim, keepdim=True) / max(x.shape[dim], 1)  # the mean of no elements is NaN


def _rms(x: torch.Tensor) -> torch.Tensor:
    return norm(x) / math.sqrt(max(x.numel(), 1))


@recorded
def adafactor(
    lr: LearningRate = 1e-2,
    beta2_decay: Scalar = -0.8,
    eps: tuple[Scalar | None, Scalar] = (None, 1e-3),
    d: Scalar = 1.0,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """Adafactor, whose state is small; see :func:`scale_by_adafactor`.

    It takes the same steps as :class:`torch.optim.Adafactor`. ``update`` needs ``params``. Every
    float may be a 0-dim tensor that requires grad.

    Args:
        lr: Learning rate >= 0, a schedule, or a tree of tensors shaped like the parameters.
        beta2_decay: Power of the number of steps by which averages take new values in, <= 0.
        eps: Lower bounds of second moments, by default the machine epsilon, and of the root mean
            square of a parameter, each >= 0.
        d: Largest root mean square of an update, > 0.
        weight_decay: Factor >= 0; parameters shrink by ``lr * weight_decay``.
        moment_requires_grad: Let the initial averages require grad.
        maximize: Ascend instead of descend.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is neither a number nor a 0-dim floating-point tensor.
    """
    return descend(
        scale_by_adafactor(
            lr,
            beta2_decay,
            eps,
            d,
            weight_decay,
            moment_requires_grad=moment_requires_grad,
        ),
        lr=1.0,
        maximize=maximize,
    )
