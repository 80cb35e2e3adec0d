"""Moving averages of updates."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import ema as average
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.base import GradientTransformation
from torchopt.typing import Scalar, TensorTree


@saveable
class EmaState(NamedTuple):
    """State of :func:`ema`.

    Attributes:
        mean: Averages before their correction, shaped like the parameters.
        steps: Updates of each parameter so far, an int64 vector.
    """

    mean: TensorTree
    steps: torch.Tensor


@recorded
def ema(
    decay: Scalar = 0.9, debias: bool = True, *, moment_requires_grad: bool = False
) -> GradientTransformation:
    r"""Replace updates by their moving average.

    .. math::

        m_t = \beta m_{t-1} + (1 - \beta) u_t, \qquad
        u'_t = \frac{m_t}{1 - \beta^t} \text{ or, without correction, } m_t

    Args:
        decay: Decay rate :math:`\beta`, in [0, 1).
        debias: Correct the average for its beginning at 0.
        moment_requires_grad: Let the initial averages require grad.

    Raises:
        ValueError: ``decay`` is out of its range.
    """
    checks.decay_rate('decay', decay)

    def rule(
        u: torch.Tensor, mean: torch.Tensor, correction: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        mean = average(mean, u, decay)
        return (mean / correction if debias else mean.clone()), mean

    return elementwise(
        EmaState,
        rule,
        lambda steps: [1 - decay**steps],
        moment_requires_grad=moment_requires_grad,
    )
