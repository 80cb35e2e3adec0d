"""Steps that are left out where a gradient is not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.selection import choose
from torchopt.authoring.shards import whole_value
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.torch_state import holds_states, torch_fields
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params


@saveable
@holds_states('inner_state')
@torch_fields(from_construction=True)
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

    Parameters then stay as they are, and the derivative of the step by its gradients is 0. Nothing
    waits for the device. Unlike ``optax.apply_if_finite``, it never lets such updates through:
    ``total_notfinite`` of the state tells how many there were.

    What the gradients were computed from gets a derivative of 0, too, unless its own derivative is
    infinite or NaN, as in a sum that has overflowed: 0 times infinity is NaN, and so is the
    meta-gradient then.

    Args:
        inner: The transformation, usually a whole optimizer.

    Raises:
        TypeError: at ``update``, a leaf is neither a floating-point tensor nor None.
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
        # Zeros in the place of all gradients: the derivative of what is not chosen is then finite.
        zeros = map_updates(torch.zeros_like, updates)
        device = state.last_finite.device
        finite = [
            whole_value(leaf.isfinite().all()).to(device) for leaf in pytree.tree_leaves(updates)
        ]
        is_finite = torch.stack(finite).all() if finite else torch.ones_like(state.last_finite)
        safe = choose(is_finite, updates, zeros)
        stepped, new = inner.update(safe, state.inner_state, params=params, inplace=False)
        return choose(is_finite, stepped, zeros), ApplyIfFiniteState(
            choose(is_finite, new, state.inner_state),
            is_finite,
            state.total_notfinite + (~is_finite).to(torch.int64),
        )

    return transformation(init, update)
