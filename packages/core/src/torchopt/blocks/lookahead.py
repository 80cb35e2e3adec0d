"""Slow parameters that follow fast ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt.authoring import checks
from torchopt.authoring.copies import copies_of, current
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates
from torchopt.authoring.selection import choose
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import shared_device
from torchopt.authoring.torch_state import holds_states
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, Scalar, TensorTree


@saveable
@holds_states('inner_state')
class LookaheadState(NamedTuple):
    """State of :func:`lookahead`.

    Attributes:
        slow: The slow parameters; before the first update, copies without a graph.
        steps: Number of fast steps so far, a 0-dim int64 tensor.
        inner_state: The state of the fast optimizer.
    """

    slow: TensorTree
    steps: torch.Tensor
    inner_state: OptState


@recorded
def lookahead(
    inner: GradientTransformation, sync_period: int = 6, slow_step_size: Scalar = 0.5
) -> GradientTransformation:
    r"""Let slow parameters take a step towards the fast ones after every few steps.

    .. math:: \phi \leftarrow \phi + \alpha (\theta - \phi), \qquad \theta \leftarrow \phi

    Zhang et al., *Lookahead Optimizer: k steps forward, 1 step back*, NeurIPS 2019, algorithm 1.
    The parameters that ``update`` changes are the fast ones; the slow ones are in the state.
    Change none of these updates afterwards: ``lookahead`` comes last in a chain. A parameter
    without a gradient at the slow step takes part in the next one.

    Args:
        inner: The fast optimizer.
        sync_period: Number of fast steps for one slow step, >= 1.
        slow_step_size: :math:`\alpha`, from 0 to 1.

    Raises:
        ValueError: a number is out of its range; at ``update``, ``params`` is missing.
    """
    checks.count('sync_period', sync_period)
    checks.fraction('slow_step_size', slow_step_size)

    def init(params: Params) -> LookaheadState:
        steps = torch.zeros((), dtype=torch.int64, device=shared_device(params))
        return LookaheadState(copies_of(params), steps, inner.init(params))

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, LookaheadState]:
        if not isinstance(state, LookaheadState):
            raise wrong_state(state, LookaheadState)
        if params is None:
            raise ValueError('lookahead needs the parameters: call update(..., params=params)')
        slow = current('slow', state.slow, state.steps, params)
        stepped, inner_state = inner.update(
            updates, state.inner_state, params=params, inplace=False
        )
        moved = map_updates(
            lambda u, s, p: s + slow_step_size * (p + u - s),
            stepped,
            {'slow': slow, 'params': params},
            absent='slow',
        )
        back = map_updates(lambda u, m, p: m - p, stepped, {'slow': moved, 'params': params})
        steps = state.steps + 1
        is_slow = steps % sync_period == 0
        return choose(is_slow, back, stepped), LookaheadState(
            choose(is_slow, moved, slow), steps, inner_state
        )

    return transformation(init, update)
