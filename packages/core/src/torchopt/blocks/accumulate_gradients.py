"""One step for several gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.initial import filled_like
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.selection import choose
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.torch_state import holds_states, torch_fields
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, TensorTree


@saveable
@holds_states('inner_state')
@torch_fields(from_construction=True)
class AccumulateState(NamedTuple):
    """State of :func:`accumulate_gradients`.

    Attributes:
        mean: Sum of the gradients since the last step, divided by ``every``; shaped like the
            parameters, and in their dtype.
        micro_steps: Number of gradients since the last step, a 0-dim int64 tensor.
        inner_state: The state of the wrapped transformation.
    """

    mean: TensorTree
    micro_steps: torch.Tensor
    inner_state: OptState


@recorded
def accumulate_gradients(inner: GradientTransformation, every: int) -> GradientTransformation:
    """Take a step of ``inner`` for the mean of every ``every`` gradients.

    All other updates are 0. Meta-gradients flow through all gradients of a step. ``inner`` is
    computed at every update and chosen at the last, so that nothing waits for the device; its
    schedules count steps, not gradients. It does what ``optax.MultiSteps`` does with an integer
    ``every_k_schedule``. In an unroll of one loss over micro-batches, ``micro_batches`` of
    :class:`torchopt.unrolling.ModuleStep` takes less memory.

    In a chain before it, clipping bounds each gradient; in a chain with ``inner``, their mean. A
    parameter without a gradient at the last of ``every`` updates keeps its value, its state and
    what has been added up, which counts at its next step. With a plain optimizer, clear ``.grad``
    after every update: it adds up, too.

    Args:
        inner: The transformation, usually a whole optimizer.
        every: Number of gradients for one step, >= 1.

    Raises:
        ValueError: ``every`` is not a positive integer.
    """
    checks.count('every', every)

    def init(params: Params) -> AccumulateState:
        zero = torch.zeros((), dtype=torch.int64, device=shared_device(params))
        return AccumulateState(filled_like(params), zero, inner.init(params))

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, AccumulateState]:
        if not isinstance(state, AccumulateState):
            raise wrong_state(state, AccumulateState)
        old = {'mean': state.mean}
        added = map_updates(lambda g, mean: mean + g / every, updates, old)
        micro_steps = state.micro_steps + 1
        is_last = micro_steps == every
        stepped, new = inner.update(added, state.inner_state, params=params, inplace=False)
        kept = map_updates(
            lambda mean, old: torch.where(is_last.to(mean.device), torch.zeros_like(old), mean),
            added,
            old,
            absent='mean',
        )
        zeros = pytree.tree_map(torch.zeros_like, stepped)
        return choose(is_last, stepped, zeros), AccumulateState(
            kept, micro_steps % every, choose(is_last, new, state.inner_state)
        )

    return transformation(init, update)
