"""Steps that are left out where a gradient is not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.origin import recorded
from torchopt.authoring.selection import choose
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params


@saveable
class ApplyIfFiniteState(NamedTuple):
    """State of :func:`apply_if_finite`.

    Attributes:
        inner_state: The state of the wrapped transformation.
        last_finite: Whether the last updates were finite, a 0-dim bool tensor.
        total_notfinite: Number of updates that were left out, a 0-dim int64 tensor.
    """

    inner_state: OptState
    last_finite: torch.Tensor
    total_notfinite: torch.Tensor


@recorded
def apply_if_finite(inner: GradientTransformation) -> GradientTransformation:
    """Leave out a step, and keep the state, if an entry of the updates is not finite.

    Parameters then stay as they are, and no meta-gradient flows through the gradients of that step.
    Nothing waits for the device. Unlike ``optax.apply_if_finite``, it never lets such updates
    through: ``total_notfinite`` of the state tells how many there were.

    Args:
        inner: The transformation, usually a whole optimizer.
    """

    def init(params: Params) -> ApplyIfFiniteState:
        device = shared_device(params)
        return ApplyIfFiniteState(
            inner.init(params),
            torch.ones((), dtype=torch.bool, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, ApplyIfFiniteState]:
        if not isinstance(state, ApplyIfFiniteState):
            raise wrong_state(state, ApplyIfFiniteState)
        device = state.last_finite.device
        finite = [leaf.isfinite().all().to(device) for leaf in pytree.tree_leaves(updates)]
        is_finite = torch.stack(finite).all() if finite else torch.ones_like(state.last_finite)
        # Zeros in the place of all gradients: the derivative of what is not chosen is then finite.
        zeros = pytree.tree_map(torch.zeros_like, updates)
        safe = choose(is_finite, updates, zeros)
        stepped, new = inner.update(safe, state.inner_state, params=params, inplace=False)
        return choose(is_finite, stepped, zeros), ApplyIfFiniteState(
            choose(is_finite, new, state.inner_state),
            is_finite,
            state.total_notfinite + (~is_finite).to(torch.int64),
        )

    return transformation(init, update)
