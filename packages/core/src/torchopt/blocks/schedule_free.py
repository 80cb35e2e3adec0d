"""Averages of parameters in the place of a schedule."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import add_updates, map_updates
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import as_float, shared_device
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, Scalar, Schedule, TensorTree


@saveable
class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free`.

    Attributes:
        z: The parameters of the wrapped optimizer.
        weight_sum: Sum of the weights so far, a 0-dim float64 tensor.
        max_lr: Largest learning rate so far, a 0-dim float64 tensor.
        steps: Number of updates so far, a 0-dim int64 tensor.
        inner_state: The state of the wrapped optimizer.
    """

    z: TensorTree
    weight_sum: torch.Tensor
    max_lr: torch.Tensor
    steps: torch.Tensor
    inner_state: OptState


@recorded
def schedule_free(
    inner: GradientTransformation,
    lr: Scalar | Schedule = 1.0,
    beta: Scalar = 0.9,
    weight_lr_power: Scalar = 2.0,
) -> GradientTransformation:
    r"""Take gradients between the iterates of an optimizer and their average.

    .. math::

        z_t &= z_{t-1} + u_t, \qquad
        x_t = (1 - c_t) x_{t-1} + c_t z_t, \qquad
        y_t = \beta x_t + (1 - \beta) z_t, \\
        c_t &= \frac{w_t}{w_1 + \dots + w_t}, \qquad w_t = (\max_{s \le t} \eta_s)^r

    where :math:`u_t` is the update that ``inner`` makes of the gradients at :math:`y_{t-1}`.
    Defazio et al., *The Road Less Scheduled*, NeurIPS 2024, equations 3 to 5 and algorithm 1, in
    the form of ``optax.contrib.schedule_free``. The parameters that ``update`` changes are
    :math:`y`; evaluate at :math:`x`, which :func:`evaluation_params` returns.

    Args:
        inner: The optimizer, without momentum, such as ``rmsprop`` or ``adam(betas=(0, 0.999))``.
        lr: :math:`\eta`, the learning rate of ``inner`` or its schedule, > 0. Only its changes
            matter, which weigh the average.
        beta: :math:`\beta`, greater than 0 and at most 1.
        weight_lr_power: :math:`r` >= 0.

    Raises:
        ValueError: a number is out of its range; at ``update``, ``params`` is missing.
    """
    if not checks.is_function(lr):
        checks.positive('lr', lr)
    checks.positive('beta', beta)
    checks.fraction('beta', beta)
    checks.nonnegative('weight_lr_power', weight_lr_power)

    def init(params: Params) -> ScheduleFreeState:
        device = shared_device(params)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        steps = torch.zeros((), dtype=torch.int64, device=device)
        z = pytree.tree_map(torch.clone, params)
        return ScheduleFreeState(z, zero, zero.clone(), steps, inner.init(params))

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, ScheduleFreeState]:
        if not isinstance(state, ScheduleFreeState):
            raise wrong_state(state, ScheduleFreeState)
        if params is None:
            raise ValueError('schedule_free needs the parameters: call update(..., params=params)')
        rate: Any = lr(as_float(state.steps)) if checks.is_function(lr) else lr
        max_lr = state.max_lr.clamp_min(rate)
        weight = max_lr**weight_lr_power
        weight_sum = state.weight_sum + weight
        share = weight / weight_sum
        x = _between(params, state.z, beta)
        stepped, inner_state = inner.update(
            updates, state.inner_state, params=params, inplace=False
        )
        z = add_updates(state.z, stepped)

        def moved(u: torch.Tensor, old: torch.Tensor, new: torch.Tensor, p: Any) -> torch.Tensor:
            part = share.to(new.device, new.dtype)
            average = old + part * (new - old)
            return average + (1 - beta) * (new - average) - p

        result = map_updates(moved, stepped, {'x': x, 'z': z, 'params': params})
        return result, ScheduleFreeState(z, weight_sum, max_lr, state.steps + 1, inner_state)

    return transformation(init, update)


def evaluation_params(
    params: Params, state: ScheduleFreeState, *, beta: Scalar = 0.9
) -> TensorTree:
    """Return the averaged parameters of :func:`schedule_free`, at which to evaluate.

    Args:
        params: The parameters that the optimizer changes.
        state: Its state.
        beta: What :func:`schedule_free` was given.
    """
    if not isinstance(state, ScheduleFreeState):
        raise wrong_state(state, ScheduleFreeState)
    return _between(params, state.z, beta)


def _between(y: TensorTree, z: TensorTree, beta: Scalar) -> TensorTree:
    """Return x, given ``y = beta x + (1 - beta) z``."""
    return pytree.tree_map(lambda a, b: b + (a - b) / beta, y, z)
