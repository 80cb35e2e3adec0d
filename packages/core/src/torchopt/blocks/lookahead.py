"""Slow parameters that follow fast ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import add_updates, map_updates
from torchopt.authoring.selection import choose
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, Scalar, TensorTree


@saveable
class LookaheadState(NamedTuple):
    """State of :func:`lookahead`.

    Attributes:
        slow: The slow parameters.
        count: Number of fast steps since the last slow one, a 0-dim int64 tensor.
        inner_state: The state of the fast optimizer.
    """

    slow: TensorTree
    count: torch.Tensor
    inner_state: OptState


@recorded
def lookahead(
    inner: GradientTransformation, sync_period: int = 6, slow_step_size: Scalar = 0.5
) -> GradientTransformation:
    r"""Let slow parameters take a step towards the fast ones after every few steps.

    .. math:: \phi \leftarrow \phi + \alpha (\theta - \phi), \qquad \theta \leftarrow \phi

    Zhang et al., *Lookahead Optimizer: k steps forward, 1 step back*, NeurIPS 2019, algorithm 1.
    The parameters that ``update`` changes are the fast ones; the slow ones are in the state.

    Args:
        inner: The fast optimizer.
        sync_period: Number of fast steps for one slow step, >= 1.
        slow_step_size: :math:`\alpha`, from 0 to 1.

    Raises:
        ValueError: a number is out of its range; at ``update``, ``params`` is missing.
    """
    if isinstance(sync_period, bool) or not isinstance(sync_period, int) or sync_period < 1:
        raise ValueError(f'sync_period must be an integer of at least 1, got {sync_period!r}')
    checks.fraction('slow_step_size', slow_step_size)

    def init(params: Params) -> LookaheadState:
        slow = pytree.tree_map(torch.clone, params)
        count = torch.zeros((), dtype=torch.int64, device=shared_device(params))
        return LookaheadState(slow, count, inner.init(params))

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, LookaheadState]:
        if not isinstance(state, LookaheadState):
            raise wrong_state(state, LookaheadState)
        if params is None:
            raise ValueError('lookahead needs the parameters: call update(..., params=params)')
        stepped, inner_state = inner.update(
            updates, state.inner_state, params=params, inplace=False
        )
        fast = add_updates(params, stepped)
        moved = pytree.tree_map(
            lambda slow, new: slow + slow_step_size * (new - slow), state.slow, fast
        )
        is_last = state.count == sync_period - 1
        back = map_updates(lambda u, slow, p: slow - p, stepped, {'slow': moved, 'params': params})
        return choose(is_last, back, stepped), LookaheadState(
            choose(is_last, moved, state.slow), (state.count + 1) % sync_period, inner_state
        )

    return transformation(init, update)
