"""Updates in proportion to the size of each tensor."""

from __future__ import annotations

import torch

from torchopt.authoring import checks
from torchopt.authoring.numerics import norm
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.transformation import stateless
from torchopt.base import GradientTransformation
from torchopt.typing import Params, Scalar, Updates


@recorded
def scale_by_trust_ratio(
    trust_coefficient: Scalar = 1.0, eps: Scalar = 0.0
) -> GradientTransformation:
    r"""Multiply the update of each tensor by the ratio of the tensor's norm to the update's norm.

    .. math:: u' = \tau \frac{\|\theta\|}{\|u\| + \epsilon} u

    Where one of the norms is 0, the update passes through unchanged. You et al., *Large Batch
    Training of Convolutional Networks*, 2017, equation 6; ``update`` needs ``params``.

    Args:
        trust_coefficient: :math:`\tau` > 0.
        eps: Added to the norm of the update, >= 0.

    Raises:
        ValueError: a number is out of its range; at ``update``, ``params`` is missing.
    """
    checks.positive('trust_coefficient', trust_coefficient)
    checks.nonnegative('eps', eps)

    def scaled(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        of_update, of_param = norm(u), norm(p)
        missing = (of_update == 0) | (of_param == 0)
        divisor = torch.where(missing, 1.0, of_update) + eps
        ratio = torch.where(missing, 1.0, trust_coefficient * of_param / divisor)
        return (u * ratio).to(u.dtype)

    def update(updates: Updates, params: Params | None) -> Updates:
        if params is None:
            raise ValueError(
                'the trust ratio needs the parameters: call update(..., params=params)'
            )
        return map_updates(scaled, updates, {'params': params})

    return stateless(update)
