"""Fused kernels on the parts of sharded parameters that each rank holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchopt
from distributed.checks_sharded import _inner, _params
from distributed.problem import DTYPE, assert_same
from distributed.sharded import (
    by_meta_optimizer,
    by_module_step,
    gathered_loss,
    mesh,
    placed,
    whole,
)
from torchopt.registry import OPTIMIZERS
from torchopt.unrolling import Recomputed, Stored, grad
from torchopt_accel import step as accel_step

STEP: Any = accel_step
SHARD = Shard(0)
FUSED = [entry for entry in OPTIMIZERS if entry.fused]


@contextmanager
def _kernel_runs() -> Iterator[list[Any]]:
    """Note the calls of kernels, in and out of place."""
    calls: list[Any] = []
    before = STEP.step, STEP.prepare_call

    def noted(fn: Any) -> Any:
        return lambda *args, **options: (calls.append(args), fn(*args, **options))[1]

    STEP.step, STEP.prepare_call = map(noted, before)
    try:
        yield calls
    finally:
        STEP.step, STEP.prepare_call = before


def _meta_gradients(
    factory: Any, params: Any, backward: Any, lr: Any = 0.05, **options: Any
) -> list[torch.Tensor]:
    params = {name: param.detach().requires_grad_() for name, param in params.items()}
    phi = torch.tensor([0.8, 0.3, 0.6], dtype=DTYPE, requires_grad=True)
    optimizer = factory(lr, **options)

    def step(carry: Any, _: None, phi: torch.Tensor) -> Any:
        params, state = carry
        updates, state = optimizer.update(
            grad(_inner)(params, phi), state, params=params, inplace=False
        )
        return (torchopt.apply_updates(params, updates, inplace=False), state), None

    carry = params, optimizer.init(params)
    (end, _), _ = torchopt.unroll(step, carry, consts=phi, length=3, backward=backward)
    (outer,) = whole([end['w'].pow(3).sum() + end['b'].sum()])
    wanted = [*params.values(), phi]
    wanted += [lr] if isinstance(lr, torch.Tensor) else []
    return whole(torch.autograd.grad(outer, wanted))


def _sharded(of_w: Any = SHARD, of_b: Any = SHARD) -> dict[str, torch.Tensor]:
    ranks, params = mesh(), _params()
    return {
        'w': distribute_tensor(params['w'], ranks, [of_w]),
        'b': distribute_tensor(params['b'], ranks, [of_b]),
    }


def check_every_kernel() -> None:
    for entry in FUSED:
        expected = _meta_gradients(entry.factory, _params(), Stored(), weight_decay=0.1)
        for backward in (Stored(), Recomputed()):
            with _kernel_runs() as calls:
                found = _meta_gradients(
                    entry.factory,
                    _sharded(),
                    backward,
                    weight_decay=0.1,
                    use_accelerated_op=True,
                )
            assert calls
            assert_same(found, expected)


def check_placements() -> None:
    expected = _meta_gradients(torchopt.adam, _params(), Stored())
    for placements in ((Replicate(), Replicate()), (Shard(1), Replicate())):
        with _kernel_runs() as calls:
            found = _meta_gradients(
                torchopt.adam, _sharded(*placements), Recomputed(), use_accelerated_op=True
            )
        assert calls
        assert_same(found, expected)


def check_modules() -> None:
    expected = by_module_step(placed(Shard(0)), Stored(), gathered_loss)
    for found in (
        by_module_step(placed(Shard(0)), Recomputed(), gathered_loss, use_accelerated_op=True),
        by_meta_optimizer(placed(Shard(0)), gathered_loss, use_accelerated_op=True),
    ):
        assert_same(found, expected)


def check_schedules_and_learned_rates() -> None:
    def schedule(count: torch.Tensor) -> torch.Tensor:
        return 0.05 * 0.9**count

    expected = _meta_gradients(torchopt.adam, _params(), Stored(), schedule)
    with _kernel_runs() as calls:
        found = _meta_gradients(
            torchopt.adam, _sharded(), Recomputed(), schedule, use_accelerated_op=True
        )
    assert calls
    assert_same(found, expected)

    def learned(params: Any, backward: Any, **options: Any) -> list[torch.Tensor]:
        lr = torch.tensor(0.05, dtype=DTYPE, requires_grad=True)
        return _meta_gradients(torchopt.adam, params, backward, lr, **options)

    with _kernel_runs() as calls:
        found = learned(_sharded(), Stored(), use_accelerated_op=True)
    assert not calls, 'its derivative must be added up over ranks'
    assert_same(found, learned(_params(), Stored()))


def check_mixed_placements_take_the_composite_rule() -> None:
    params = _sharded()
    gradients = {
        name: param.redistribute(placements=[Replicate()]) for name, param in params.items()
    }
    partial = {
        name: DTensor.from_local(g.to_local() / dist.get_world_size(), mesh(), [Partial()])
        for name, g in gradients.items()
    }
    plain = torchopt.adam(0.1)
    expected, _ = plain.update(_params(), plain.init(_params()), inplace=False)
    fused = torchopt.adam(0.1, use_accelerated_op=True)
    for given in (gradients, partial):
        with _kernel_runs() as calls:
            found, _ = fused.update(given, fused.init(params), inplace=False)
        assert not calls
        assert_same(whole(found.values()), [*expected.values()])


def check_in_place() -> None:
    optimizer, plain = (torchopt.adam(0.1, use_accelerated_op=fused) for fused in (True, False))
    params = _sharded()
    state, expected_state = optimizer.init(params), plain.init(_params())
    for _ in range(2):
        updates, expected = _sharded(), _params()
        given = updates['w']
        versions = given._version, state[0].mu['w']._version
        with _kernel_runs() as calls:
            updates, state = optimizer.update(updates, state)
        expected, expected_state = plain.update(expected, expected_state)
        assert calls
        assert updates['w'] is given
        assert (given._version, state[0].mu['w']._version) > versions
        assert_same(whole(updates.values()), [*expected.values()])
        assert_same(whole(state[0].nu.values()), [*expected_state[0].nu.values()])
    weight = _sharded()['w'].requires_grad_()
    squares = (weight * updates['w']).sum()
    optimizer.update(updates, state)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        squares.full_tensor().backward()


def check_plain_optimizers() -> None:
    def trained(params: Any, **options: Any) -> list[torch.Tensor]:
        params = {
            name: torch.nn.Parameter(param.detach().clone()) for name, param in params.items()
        }
        optimizer = torchopt.AdamW(params.values(), lr=0.1, **options)
        for _ in range(3):
            optimizer.zero_grad()
            whole([_inner(params, torch.tensor([0.8, 0.3, 0.6], dtype=DTYPE))])[0].backward()
            optimizer.step()
        return whole(param.detach() for param in params.values())

    with _kernel_runs() as calls:
        found = trained(_sharded(), use_accelerated_op=True)
    assert calls
    assert_same(found, trained(_params()))
