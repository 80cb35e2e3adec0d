"""Momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import add_scaled
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import elementwise
from torchopt.authoring.state import saveable
from torchopt.authoring.torch_state import torch_fields
from torchopt.base import GradientTransformation, identity
from torchopt.typing import Scalar, TensorTree


@saveable
@torch_fields(trace='momentum_buffer')
class TraceState(NamedTuple):
    """State of :func:`trace`.

    Attributes:
        trace: The momentum buffer, shaped like the parameters.
        steps: Steps taken by each parameter, an int64 vector; the empty tuple without dampening,
            which is all that depends on it.
    """

    trace: TensorTree
    steps: torch.Tensor | tuple[()]


@recorded
def trace(
    momentum: Scalar = 0.9,
    dampening: Scalar = 0.0,
    nesterov: bool = False,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    r"""Accumulate a decaying sum of the gradients.

    .. math::

        m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad m_1 = g_1, \qquad
        u_t = m_t \text{ or, with Nesterov, } g_t + \mu m_t

    Sutskever et al., *On the importance of initialization and momentum in deep learning*, ICML
    2013, equations 1 to 4, in the form of :class:`torch.optim.SGD`.

    Args:
        momentum: The decay :math:`\mu` >= 0; the number 0 gives the identity.
        dampening: :math:`\tau`, from 0 to 1, which is not applied at a parameter's first step.
        nesterov: Look ahead along the new buffer.
        moment_requires_grad: Let the initial buffer require grad.

    Raises:
        ValueError: a hyperparameter is out of its range, or ``nesterov`` comes without momentum
            or with dampening.
    """
    checks.nonnegative('momentum', momentum)
    checks.fraction('dampening', dampening)
    undamped = isinstance(dampening, (int, float)) and dampening == 0
    still = isinstance(momentum, (int, float)) and momentum == 0
    if nesterov and (still or not undamped):
        raise ValueError('nesterov needs a momentum and zero dampening')
    if still:
        return identity()

    def rule(
        g: torch.Tensor, m: torch.Tensor, weight: torch.Tensor | float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        m = add_scaled(g if undamped else weight * g, m, momentum)
        return (add_scaled(g, m, momentum) if nesterov else m), m

    def weights(steps: torch.Tensor) -> list[torch.Tensor]:
        return [1 - dampening * (steps > 1).to(steps.dtype)]

    return elementwise(
        TraceState,
        rule,
        None if undamped else weights,
        moment_requires_grad=moment_requires_grad,
    )
