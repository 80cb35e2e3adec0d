"""Weight decay as a transformation."""

from __future__ import annotations

from torchopt.authoring import checks
from torchopt.authoring.numerics import add_scaled
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.transformation import stateless
from torchopt.base import GradientTransformation, identity
from torchopt.blocks.masked import masked
from torchopt.typing import Mask, Params, Scalar, Updates


@recorded
def add_decayed_weights(
    weight_decay: Scalar = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    """Add ``weight_decay * params`` to updates; ``update`` needs ``params``.

    Args:
        weight_decay: Factor >= 0. The number 0 gives the identity, which needs no ``params``.
        mask: Which parameters decay, see :func:`masked`; all of them by default.

    Raises:
        ValueError: ``weight_decay`` is negative; at ``update``, ``params`` is missing.
    """
    checks.nonnegative('weight_decay', weight_decay)
    if isinstance(weight_decay, (int, float)) and weight_decay == 0:
        return identity()

    def update(updates: Updates, params: Params | None) -> Updates:
        if params is None:
            raise ValueError('weight decay needs the parameters: call update(..., params=params)')
        return map_updates(lambda g, p: add_scaled(g, p, weight_decay), updates, {'params': params})

    decay = stateless(update)
    return decay if mask is None else masked(decay, mask)
