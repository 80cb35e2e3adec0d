"""One step for several gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.initial import filled_like
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.selection import choose
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, TensorTree


@saveable
class AccumulateState(NamedTuple):
    """State of :func:`accumulate_gradients`.

    Attributes:
        mean: Mean of the gradients since the last step, shaped like the parameters.
        count: Number of gradients since the last step, a 0-dim int64 tensor.
        inner_state: The state of the wrapped transformation.
    """

    mean: TensorTree
    count: torch.Tensor
    inner_state: OptState


@recorded
def accumulate_gradients(inner: GradientTransformation, every: int) -> GradientTransformation:
    """Take a step of ``inner`` for the mean of every ``every`` gradients.

    All other updates are 0. Meta-gradients flow through all gradients of a step. ``inner`` is
    computed at every update and chosen at the last, so that nothing waits for the device. It does
    what ``optax.MultiSteps`` does. In an unroll of one loss over micro-batches, ``micro_batches`` of
    :class:`torchopt.unrolling.ModuleStep` takes less memory.

    Args:
        inner: The transformation, usually a whole optimizer.
        every: Number of gradients for one step, >= 1.

    Raises:
        ValueError: ``every`` is not a positive integer.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f'every must be an integer of at least 1, got {every!r}')

    def init(params: Params) -> AccumulateState:
        count = torch.zeros((), dtype=torch.int64, device=shared_device(params))
        return AccumulateState(filled_like(params), count, inner.init(params))

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, AccumulateState]:
        if not isinstance(state, AccumulateState):
            raise wrong_state(state, AccumulateState)
        mean = map_updates(
            lambda g, old: old + g / every, updates, {'mean': state.mean}, absent='mean'
        )
        chosen = pytree.tree_map(
            lambda g, whole: None if g is None else whole, updates, mean, none_is_leaf=True
        )
        is_last = state.count == every - 1
        stepped, new = inner.update(chosen, state.inner_state, params=params, inplace=False)
        zeros = pytree.tree_map(torch.zeros_like, stepped)
        return choose(is_last, stepped, zeros), AccumulateState(
            choose(is_last, pytree.tree_map(torch.zeros_like, mean), mean),
            (state.count + 1) % every,
            choose(is_last, new, state.inner_state),
        )

    return transformation(init, update)
