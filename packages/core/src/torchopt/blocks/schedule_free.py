"""Averages of parameters in the place of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.copies import copies_of, current
from torchopt.authoring.describe import describe
from torchopt.authoring.numerics import power
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import add_updates, map_updates
from torchopt.authoring.rates import beside
from torchopt.authoring.state import saveable
from torchopt.authoring.steps import as_float, shared_device
from torchopt.authoring.torch_state import holds_states
from torchopt.authoring.transformation import transformation, wrong_state
from torchopt.base import GradientTransformation
from torchopt.typing import OptState, Params, Scalar, Schedule, TensorTree


@saveable
@holds_states('inner_state')
class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free`.

    Attributes:
        z: The parameters of the wrapped optimizer; before the first update, copies without a graph.
        beta: The share of the average in the parameters, a 0-dim float64 tensor.
        weight_sum: Sum of the weights so far, a 0-dim float64 tensor.
        max_lr: Largest learning rate so far, a 0-dim float64 tensor.
        steps: Number of updates so far, a 0-dim int64 tensor.
        inner_state: The state of the wrapped optimizer.
    """

    z: TensorTree
    beta: torch.Tensor
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
    :math:`y`; evaluate at :math:`x`, which :func:`schedule_free_eval_params` returns.

    Every float may be a 0-dim tensor that requires grad. Updates must not be changed afterwards: in
    a chain, clipping comes before ``schedule_free``, and nothing after it.

    Args:
        inner: The optimizer. It must have no momentum: :math:`\beta` takes its place. Right are
            ``sgd``, ``rmsprop`` and ``adam(betas=(0, 0.999))``; with ``adam()`` or
            ``sgd(momentum=0.9)``, there is momentum twice, and nothing raises.
        lr: :math:`\eta`, the learning rate of ``inner``, a scalar or a schedule of scalars; it
            weighs the average, and only its changes matter. A warm-up must be given to both.
        beta: :math:`\beta`, greater than 0 and at most 1.
        weight_lr_power: :math:`r` >= 0.

    Raises:
        ValueError: a number is out of its range; at ``update``, ``params`` is missing.
        TypeError: ``lr`` is a tree of rates, or, at ``update``, its schedule returns one.

    Example:
        >>> import torch, torchopt
        >>> params = torch.tensor([1.0, -2.0])
        >>> optimizer = torchopt.schedule_free(torchopt.sgd(lr=0.5))
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     gradients = params  # of half the sum of squares
        ...     updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        ...     params = torchopt.apply_updates(params, updates, inplace=False)
        >>> torchopt.schedule_free_eval_params(state, params)
        tensor([ 0.1242, -0.2484])
    """
    rate_at: Schedule | None = lr if checks.is_function(lr) else None
    constant: Any = lr
    if rate_at is None:
        checks.positive('lr', constant)
    checks.positive('beta', beta)
    checks.fraction('beta', beta)
    checks.nonnegative('weight_lr_power', weight_lr_power)

    def init(params: Params) -> ScheduleFreeState:
        steps = torch.zeros((), dtype=torch.int64, device=shared_device(params))
        zero = as_float(steps)
        return ScheduleFreeState(
            copies_of(params), zero + beta, zero, zero.clone(), steps, inner.init(params)
        )

    def update(updates: Any, state: Any, params: Params | None) -> tuple[Any, ScheduleFreeState]:
        if not isinstance(state, ScheduleFreeState):
            raise wrong_state(state, ScheduleFreeState)
        if params is None:
            raise ValueError('schedule_free needs the parameters: call update(..., params=params)')
        rate = constant if rate_at is None else rate_at(as_float(state.steps))
        max_lr = _largest(state.max_lr, rate)
        weight = power(max_lr, weight_lr_power)
        weight_sum = state.weight_sum + weight
        share = weight / torch.where(weight_sum == 0, 1.0, weight_sum)
        z = current('z', state.z, state.steps, params)
        stepped, inner_state = inner.update(
            updates, state.inner_state, params=params, inplace=False
        )

        def moved(u: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x = _average(y, z, state.beta)
            x = x + share.to(u.device) * (z + u - x)
            return x + (1 - beta) * (z + u - x) - y

        return map_updates(moved, stepped, {'z': z, 'params': params}), ScheduleFreeState(
            add_updates(z, stepped),
            torch.zeros_like(state.beta) + beta,
            weight_sum,
            max_lr,
            state.steps + 1,
            inner_state,
        )

    return transformation(init, update)


def schedule_free_eval_params(state: Any, params: Params) -> TensorTree:
    """Return the average of :func:`schedule_free`, at which to evaluate.

    It has the graph of ``state`` and ``params``.

    Args:
        state: The state of ``schedule_free`` itself: of a chain, one member of its state; of a
            meta-optimizer, one member of ``state_dict()``, which has one for each group; of
            :class:`torchopt.unrolling.ModuleStep`, ``carry.state``. Or ``state`` of a plain
            optimizer.
        params: The parameters that the optimizer changes, in the structure that it knows: of a
            meta-optimizer, ``dict(module.named_parameters())``; of ``ModuleStep``,
            ``carry.params``.

    Raises:
        TypeError: ``state`` is none of these.
        ValueError: ``params`` has another structure than the state.
    """
    if isinstance(state, Mapping) and all([isinstance(key, torch.Tensor) for key in state]):
        leaves: list[torch.Tensor] = pytree.tree_leaves(params)
        if state and not any([leaf in state for leaf in leaves]):
            raise ValueError('params are not the parameters of this optimizer')
        return pytree.tree_map(lambda param: _of_entry(state.get(param), param), params)
    if not isinstance(state, ScheduleFreeState):
        raise _not_schedule_free(state)

    def average(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.where((state.steps == 0).to(y.device), y, _average(y, z, state.beta))

    return map_updates(average, params, {'z': state.z})


def _average(y: torch.Tensor, z: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Return x, given ``y = beta x + (1 - beta) z``."""
    return z + (y - z) / beta.to(y.device)


def _largest(before: torch.Tensor, rate: Any) -> torch.Tensor:
    if checks.is_tree(rate):
        raise TypeError('the lr of schedule_free must be one rate for all parameters, got a tree')
    checks.number('lr', rate)
    return before.clamp_min(beside(before, rate))


def _of_entry(entry: Any, param: torch.Tensor) -> torch.Tensor:
    if not entry:  # no step yet
        return param
    if 'z' not in entry or 'beta' not in entry:
        raise TypeError(f'this optimizer is not schedule_free: its state has {", ".join(entry)}')
    return _average(param, entry['z'], entry['beta'])


def _not_schedule_free(state: Any) -> TypeError:
    found = [
        f'state{accessor.codify("")}'
        for accessor, leaf in zip(
            *pytree.tree_flatten_with_accessor(
                state, is_leaf=lambda value: isinstance(value, ScheduleFreeState)
            )[:2]
        )
        if isinstance(leaf, ScheduleFreeState)
    ]
    hint = f': pass {" or ".join(found)}' if found else f', got {describe(state)}'
    return TypeError(f'the first argument must be the state of schedule_free itself{hint}')
