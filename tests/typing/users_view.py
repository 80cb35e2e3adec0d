"""The library as strict type checkers see it; the session ``types`` checks this file.

An ``ignore`` marks an expected error: both checkers complain about an ``ignore`` without an error.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import Any

import torch
from torch import nn
from typing_extensions import assert_type

import torchopt
import torchopt_meta
from torchopt.base import GradientTransformation, IdentityGradientTransformation
from torchopt.typing import (
    ChainedGradientTransformation,
    EmptyState,
    Numeric,
    OptState,
    Params,
    ScalarOrSchedule,
    Schedule,
    TensorTree,
    UninitializedState,
    Updates,
)

Weights = dict[str, torch.Tensor]


def functional(params: Weights, gradients: Weights, rate: torch.Tensor) -> Weights:
    assert_type(torchopt.adam(), GradientTransformation)
    assert_type(torchopt.sgd(rate, momentum=0.9), GradientTransformation)
    assert_type(torchopt.base.identity(), IdentityGradientTransformation)
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adamw(lr=rate))
    assert_type(optimizer, GradientTransformation)
    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params=params, inplace=False)
    assert_type(updates, Weights)
    new = torchopt.apply_updates(params, updates, inplace=False)
    assert_type(new, Weights)
    return new


def learning_rates(params: Weights, rate: torch.Tensor, schedule: Schedule) -> None:
    torchopt.adam(lr=0.1)
    torchopt.adam(lr=rate)
    torchopt.adam(lr=schedule)
    torchopt.adam(lr=torchopt.linear_schedule(1.0, 0.1, 100))
    torchopt.adam(lr={name: torch.ones(()) for name in params})


def of_a_dependent(
    lr: ScalarOrSchedule, decay: Numeric, params: Params, updates: Updates
) -> tuple[TensorTree, OptState]:
    """Annotations and trees as programs written for TorchOpt have them."""
    optimizer: torchopt.typing.GradientTransformation = torchopt.adamw(lr, weight_decay=decay)
    assert_type(optimizer.chain(torchopt.sgd(lr)), GradientTransformation)
    state: OptState | UninitializedState = UninitializedState()
    if isinstance(state, (EmptyState, UninitializedState)):
        state = optimizer.init(params)
    if isinstance(optimizer, ChainedGradientTransformation):
        assert_type(optimizer.transformations, tuple[GradientTransformation, ...])
    wrapped = torchopt.FuncOptimizer(optimizer, inplace=True)
    assert_type(wrapped.impl, GradientTransformation)
    wrapped.step(torch.ones(()), params, True)
    assert_type(torchopt.pytree.tree_paths(params), list[tuple[Any, ...]])
    torchopt.pytree.tree_broadcast_common(updates, params)
    return optimizer.update(updates, state, params=params, inplace=False)


def plain(net: nn.Module, rate: torch.Tensor) -> None:
    optimizer = torchopt.Adam(net.parameters(), lr=1.0, betas=(0.9, rate), eps_root=1e-8)
    assert_type(optimizer, torchopt.Adam)
    optimizer.zero_grad()
    optimizer.step()
    assert_type(optimizer.param_groups, list[dict[str, Any]])
    torchopt.Adam([{'params': net.parameters(), 'lr': 0.1}])
    torchopt.RMSprop(net.parameters(), centered=True)
    torchopt.Optimizer(net.parameters(), torchopt.sgd(lr=0.1))
    functional_one = torchopt.FuncOptimizer(torchopt.adam())
    params = dict(net.named_parameters())
    assert_type(functional_one.step(rate, params), dict[str, nn.Parameter])


def meta(net: nn.Module, loss: torch.Tensor, schedule: Schedule) -> None:
    optimizer = torchopt.MetaAdam(net, lr=1.0)
    assert_type(optimizer, torchopt_meta.MetaAdam)
    optimizer.step(loss)
    torchopt.MetaSGD(net, lr=schedule, momentum=0.9)
    torchopt.MetaAdadelta(net, rho=0.5)
    torchopt.MetaOptimizer(net, torchopt.sgd(lr=1.0))


def utils(net: nn.Module, optimizer: torchopt.MetaAdam) -> None:
    net_state = torchopt.extract_state_dict(net, by='reference', detach_buffers=True)
    optimizer_state = torchopt.extract_state_dict(optimizer)
    torchopt.recover_state_dict(net, net_state)
    torchopt.recover_state_dict(optimizer, optimizer_state)
    torchopt.stop_gradient(net)
    assert_type(torchopt.module_clone(net, by='copy'), nn.Module)
    torchopt.module_detach_(net)


def unrolls(net: nn.Module, batches: torch.Tensor) -> None:
    def step(w: torch.Tensor, x: torch.Tensor, k: float) -> tuple[torch.Tensor, None]:
        return w - k * torchopt.unrolling.grad(torch.sum)(w), None

    backward = torchopt.unrolling.Truncated(10, torchopt.unrolling.Snapshots())
    end, _ = torchopt.unroll(step, torch.ones(2), batches, 0.1, backward=backward)
    assert_type(end, torch.Tensor)
    inner = torchopt.unrolling.ModuleStep(net, torchopt.sgd(lr=1.0), lambda net, x, _: net(x).sum())
    carry, _ = torchopt.unroll(inner, inner.init(), batches)
    assert_type(carry.params, dict[str, torch.Tensor])
    inner.write(carry)


def mistakes(net: nn.Module) -> None:
    torchopt.adam(lrr=1.0)  # type: ignore[call-arg]
    torchopt.adam(eps='small')  # type: ignore[arg-type]
    torchopt.Adam(net.parameters(), lrr=1.0)  # type: ignore[call-arg]
    torchopt.Adam()  # type: ignore[call-arg]
    torchopt.MetaAdam(net, lrr=1.0)  # type: ignore[call-arg]
    torchopt.MetaAdam(net.parameters())  # type: ignore[arg-type]
    torchopt.unroll(torch.sin, net, length=1, backward='stored')  # type: ignore[arg-type]
    _ = torchopt.MetaNoSuchOptimizer  # type: ignore[attr-defined]
    _ = torchopt.typing.Numerik  # type: ignore[attr-defined]
    torchopt.FuncOptimizer(torchopt.sgd(), True)  # type: ignore[call-arg]
