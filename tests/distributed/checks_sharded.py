"""Meta-gradients of parameters that are spread over ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchopt
from distributed.problem import DTYPE, assert_same
from distributed.sharded import (
    HELD_OUT,
    ONES,
    WEIGHTS,
    XS,
    Net,
    by_meta_optimizer,
    by_module_step,
    gathered_loss,
    gathered_loss_of_own_rows,
    loss,
    loss_of_sharded_rows,
    mesh,
    placed,
    tensor_parallel,
    whole,
)
from support.block_cases import BLOCKS
from support.trees import generator
from torchopt.distributed import sum_over_ranks
from torchopt.registry import OPTIMIZERS
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Truncated,
    grad,
)

REVERSE = (
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Snapshots(2),
    Truncated(9, Recomputed()),
)


def _params() -> dict[str, torch.Tensor]:
    source = generator(0)
    return {
        'w': torch.randn(6, 4, generator=source, dtype=DTYPE),
        'b': torch.randn(5, generator=source, dtype=DTYPE),
    }


def _inner(params: Any, phi: torch.Tensor) -> torch.Tensor:
    """Elementwise, so that it needs no other tensor of a placement."""
    w, b = params['w'], params['b']
    return (w * phi[0]).tanh().square().sum() * phi[2] + (b - phi[1]).square().sum().sin()


def _meta_gradients(optimizer: Any, params: Any, backward: Any) -> list[torch.Tensor]:
    params = {name: param.detach().requires_grad_() for name, param in params.items()}
    phi = torch.tensor([0.8, 0.3, 0.6], dtype=DTYPE, requires_grad=True)
    lr = torch.tensor(0.05, dtype=DTYPE, requires_grad=True)

    def step(carry: Any, _: None, consts: Any) -> Any:
        (params, state), (phi, lr) = carry, consts
        updates, state = optimizer(lr).update(
            grad(_inner)(params, phi), state, params=params, inplace=False
        )
        return (torchopt.apply_updates(params, updates, inplace=False), state), None

    carry = params, optimizer(lr).init(params)
    (end, _), _ = torchopt.unroll(step, carry, consts=(phi, lr), length=3, backward=backward)
    (outer,) = whole([end['w'].pow(3).sum() + end['b'].sum()])
    return whole(torch.autograd.grad(outer, [*params.values(), phi, lr]))


def check_every_rule_and_block() -> None:
    ranks, clip, scale = mesh(), torchopt.clip_grad_norm(2.0), torchopt.transform.scale
    sharded = {name: distribute_tensor(p, ranks, [Shard(0)]) for name, p in _params().items()}
    optimizers: list[Any] = [
        *(lambda lr, make=e.factory: torchopt.chain(clip, make(lr=lr)) for e in OPTIMIZERS),
        *(lambda lr, make=case.make: torchopt.chain(make(), scale(10 * lr)) for case in BLOCKS),
    ]
    for optimizer in optimizers:
        expected = _meta_gradients(optimizer, _params(), Stored())
        for backward in (Stored(), Recomputed()):
            assert_same(_meta_gradients(optimizer, sharded, backward), expected)


def check_a_learnable_decay_rate() -> None:
    """Its gradient passes through vectors with a number per leaf, which stay plain tensors."""

    def optimizer(number: Any) -> torchopt.GradientTransformation:
        return torchopt.nadam(0.1, betas=(0.5 + number, 0.9))

    ranks = mesh()
    sharded = {name: distribute_tensor(p, ranks, [Shard(0)]) for name, p in _params().items()}
    expected = _meta_gradients(optimizer, _params(), Stored())
    for backward in (Stored(), Recomputed()):
        assert_same(_meta_gradients(optimizer, sharded, backward), expected)


def check_all_ranks_leave_out_a_step_that_overflows_on_one() -> None:
    spoilt = torch.ones(4, dtype=DTYPE).index_fill(0, torch.tensor(3), torch.inf)
    gradient = distribute_tensor(spoilt, mesh(), [Shard(0)])
    optimizer = torchopt.transform.apply_if_finite(torchopt.sgd(0.1))
    updates, state = optimizer.update(gradient, optimizer.init(gradient), inplace=False)
    assert_same(updates.full_tensor(), torch.zeros(4, dtype=DTYPE))
    assert not state.last_finite


def check_every_mode_and_placement() -> None:
    ranks = mesh()
    expected = _meta_gradients(torchopt.adam, _params(), Stored())
    for of_w, of_b in ((Shard(0), Shard(0)), (Replicate(), Replicate()), (Shard(1), Replicate())):
        params = _params()
        placed = {
            'w': distribute_tensor(params['w'], ranks, [of_w]),
            'b': distribute_tensor(params['b'], ranks, [of_b]),
        }
        for backward in REVERSE:
            assert_same(_meta_gradients(torchopt.adam, placed, backward), expected)


def check_meta_parameters_beside_sharded_parameters() -> None:
    """A plain one gets a partial sum as its gradient; as a replicated DTensor, a plain gradient."""
    ranks = mesh()
    sharded = {name: distribute_tensor(p, ranks, [Shard(0)]) for name, p in _params().items()}
    gradients = []
    for params, replicate in ((_params(), False), (sharded, False), (sharded, True)):
        phi = torch.tensor([0.8, 0.3, 0.6], dtype=DTYPE, requires_grad=True)
        used = DTensor.from_local(phi, ranks, [Replicate()]) if replicate else phi
        (outer,) = whole([_inner(params, used)])
        outer.backward()
        gradients.append(phi.grad)
    expected, partial, found = gradients
    assert_same(found, expected)
    assert isinstance(partial, DTensor)
    assert partial.placements[0].is_partial()
    assert_same(partial.full_tensor(), expected)


def check_a_mesh_of_two_dimensions() -> None:
    ranks = dist.device_mesh.init_device_mesh('cpu', (2, dist.get_world_size() // 2))
    expected = _meta_gradients(torchopt.adam, _params(), Stored())
    placed = {
        name: distribute_tensor(p, ranks, [Replicate(), Shard(0)]) for name, p in _params().items()
    }
    for backward in (Stored(), Recomputed()):
        assert_same(_meta_gradients(torchopt.adam, placed, backward), expected)


def check_second_meta_derivatives() -> None:
    ranks = mesh()

    def second(params: Any, backward: Any) -> torch.Tensor:
        params = {name: param.detach() for name, param in params.items()}
        phi = torch.tensor([0.8, 0.3, 0.6], dtype=DTYPE, requires_grad=True)

        def step(params: Any, _: None, phi: torch.Tensor) -> Any:
            updates, _ = torchopt.sgd(0.1).update(
                grad(_inner)(params, phi), torchopt.sgd(0.1).init(params), inplace=False
            )
            return torchopt.apply_updates(params, updates, inplace=False), None

        end, _ = torchopt.unroll(step, params, consts=phi, length=3, backward=backward)
        (outer,) = whole([end['w'].pow(3).sum() + end['b'].pow(2).sum()])
        (first,) = torch.autograd.grad(outer, phi, create_graph=True)
        return whole(torch.autograd.grad(first.square().sum(), phi))[0]

    sharded = {name: distribute_tensor(p, ranks, [Shard(0)]) for name, p in _params().items()}
    for backward in (Stored(), Recomputed()):
        assert_same(second(sharded, backward), second(_params(), Stored()))


def check_tensor_parallel_plans() -> None:
    expected = by_module_step(Net(hidden=8), Stored())
    for backward in REVERSE:
        assert_same(by_module_step(tensor_parallel(), backward), expected)
    assert_same(by_meta_optimizer(tensor_parallel()), expected)


def check_parameters_gathered_in_the_loss() -> None:
    expected = by_module_step(Net(), Stored())
    for backward in REVERSE:
        found = by_module_step(placed(Shard(0)), backward, gathered_loss)
        assert_same(found, expected)
    assert_same(by_meta_optimizer(placed(Shard(0)), gathered_loss), expected)


def check_parameters_gathered_where_each_rank_has_its_rows() -> None:
    expected = by_module_step(Net(), Stored())
    for backward in (Stored(), Recomputed(), Snapshots(2)):
        weights, *start = by_module_step(placed(Shard(0)), backward, gathered_loss_of_own_rows)
        # Each rank has found the derivative by the weights of its own rows; all others are 0.
        assert_same([sum_over_ranks(weights), *start], expected)


def check_sharded_rows() -> None:
    expected = by_module_step(Net(), Stored())
    for backward in (Stored(), Recomputed(), Snapshots(2)):
        found = by_module_step(placed(Replicate()), backward, loss_of_sharded_rows)
        assert_same(found, expected)
    assert_same(by_meta_optimizer(placed(Replicate()), loss_of_sharded_rows), expected)


def check_sharded_xs() -> None:
    """Slices of a DTensor, whose cotangents are put together again."""
    ranks = mesh()

    def gradient(xs: torch.Tensor, start: torch.Tensor, backward: Any) -> torch.Tensor:
        xs = xs.detach().requires_grad_()

        def step(w: torch.Tensor, x: torch.Tensor, _: None) -> Any:
            return w - 0.1 * grad(lambda w: (w * x).sin().sum())(w), (w * x).sum()

        end, ys = torchopt.unroll(step, start, xs, backward=backward)
        (outer,) = whole([end.square().sum() + ys.pow(2).sum()])
        return whole(torch.autograd.grad(outer, xs))[0]

    start = torch.linspace(-1, 1, 4, dtype=DTYPE)
    xs = torch.randn(3, 4, generator=generator(1), dtype=DTYPE)
    expected = gradient(xs, start, Stored())
    for backward in (Stored(), Recomputed(), Snapshots(2)):
        placed_xs = distribute_tensor(xs, ranks, [Shard(1)])
        placed_start = distribute_tensor(start, ranks, [Shard(0)])
        assert_same(gradient(placed_xs, placed_start, backward), expected)


def check_fully_shard_is_refused() -> None:
    net = Net()
    for part in (net.a, net.b, net):
        fully_shard(part, mesh=mesh())
    with pytest.raises(RuntimeError, match=r'ModuleStep cannot take inner .* gathers its own'):
        ModuleStep(net, torchopt.adam(0.1), loss)
    with pytest.raises(RuntimeError, match=r'MetaAdam cannot .* the module: FSDPNet gathers'):
        torchopt.MetaAdam(net, 0.1)

    def step(params: Any, x: torch.Tensor, weights: torch.Tensor) -> Any:
        def inner(params: Any) -> torch.Tensor:
            return loss(lambda x: torch.func.functional_call(net, params, (x,)), x, weights)

        gradients = grad(inner)(params)
        return {name: params[name] - 0.1 * gradients[name] for name in params}, None

    params = dict(net.named_parameters())
    for backward in (Stored(), Recomputed(), Truncated(1)):
        with pytest.raises(RuntimeError, match=r'unroll cannot take inner .* gathers its own'):
            torchopt.unroll(step, params, XS, WEIGHTS, backward=backward)
    with pytest.raises(RuntimeError, match=r'unroll cannot take inner .* gathers its own'):
        torchopt.unroll(lambda w, _, net: (net(w), None), XS[0], consts=net, length=1)
    # A plain optimizer trains it, and a frozen part is no obstacle.
    loss(net, HELD_OUT, ONES).backward()
    torchopt.Adam(net.parameters(), lr=0.1).step()
    net.requires_grad_(False)
    head = nn.Linear(4, 2, dtype=DTYPE)
    ModuleStep(nn.Sequential(net, head), torchopt.adam(0.1), loss)


def check_a_placement_that_changes_is_refused() -> None:
    start = distribute_tensor(_params()['w'], mesh(), [Shard(0)])
    for change in (
        lambda w: w.redistribute(placements=[Replicate()]),
        lambda w: w.full_tensor(),
        lambda w: w.redistribute(placements=[Shard(1)]),
    ):
        for backward in (Stored(), Recomputed()):
            with pytest.raises(ValueError, match=r'placed as .*device and placement must stay'):
                torchopt.unroll(
                    lambda w, *_, change=change: (change(w), None),
                    start,
                    length=2,
                    backward=backward,
                )


def check_forward_derivatives_are_refused() -> None:
    sharded = {name: distribute_tensor(p, mesh(), [Shard(0)]) for name, p in _params().items()}
    with pytest.raises(RuntimeError, match=r'ForwardMode\(\) .* refuses DTensors'):
        _meta_gradients(torchopt.adam, sharded, ForwardMode(200))
    backward = Recomputed(keep_gradients=True, order='forward-over-reverse')
    with pytest.raises(RuntimeError, match=r'forward-over-reverse.* refuses DTensors'):
        _meta_gradients(torchopt.adam, sharded, backward)


def check_until_needs_a_whole_value() -> None:
    start = distribute_tensor(torch.ones(4, dtype=DTYPE), mesh(), [Shard(0)])

    def run(until: Any) -> Any:
        return torchopt.unroll(lambda w, *_: (0.5 * w, None), start, until=until)[0]

    for until in (
        lambda w: w.sum(),  # not zero
        lambda w: DTensor.from_local(w.to_local().sum() < 1, mesh(), [Partial('max')]),
    ):
        with pytest.raises(RuntimeError, match='each rank has a part'):
            run(until)
    for until in (lambda w: w.sum() < 1, lambda w: w.sum().full_tensor() < 1):
        assert_same(run(until).full_tensor(), ONES[:4] / 8)
