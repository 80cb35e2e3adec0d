"""Sums over ranks in compiled functions and compiled steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from distributed.problem import (
    DTYPE,
    assert_same,
    gradients_in_one_process,
    loss_of_rank,
    share,
)
from torchopt.distributed import mean_over_ranks, sum_over_ranks
from torchopt.unrolling import Recomputed, Snapshots, Stored


def _compiled(fn: Any, backend: str = 'aot_eager') -> Any:
    return torch.compile(fn, fullgraph=True, backend=backend)


def _same_when_compiled(fn: Any, *args: Any) -> None:
    assert_same(_compiled(fn)(*args), fn(*args))


def check_transforms_in_a_graph() -> None:
    own = torch.linspace(-1, 2, 4, dtype=DTYPE) + dist.get_rank()
    batch = torch.stack([own, 2 * own])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks({'x': x, 'none': None})['x'].pow(3).sum() * (1 + dist.get_rank())

    first = torch.func.grad(loss)
    _same_when_compiled(loss, own)
    _same_when_compiled(first, own)
    _same_when_compiled(torch.func.grad(lambda x: first(x).square().sum()), own)
    _same_when_compiled(lambda x: torch.func.vjp(first, x)[1](x)[0], own)
    _same_when_compiled(lambda x: torch.func.jvp(first, (x,), (x,))[1], own)
    _same_when_compiled(lambda x: torch.vmap(first)(x), batch)


def check_a_group_in_a_graph() -> None:
    rank = dist.get_rank()
    groups = [dist.new_group([a, a + 1]) for a in range(0, dist.get_world_size(), 2)]
    mine = groups[rank // 2]
    own = torch.linspace(-1, 2, 4, dtype=DTYPE) + rank
    _same_when_compiled(torch.func.grad(lambda x: sum_over_ranks(x, mine).pow(3).sum()), own)


def check_the_backward_pass_of_a_graph() -> None:
    own = (torch.linspace(-1, 2, 4, dtype=DTYPE) + dist.get_rank()).requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return sum_over_ranks(x).pow(3).sum()

    (expected,) = torch.autograd.grad(loss(own), own)
    for backend in ('aot_eager', 'inductor'):
        (found,) = torch.autograd.grad(_compiled(loss, backend)(own), own)
        assert_same(found, expected)


def check_compiled_steps() -> None:
    expected = gradients_in_one_process()
    for backward in (Recomputed(compile='aot_eager'), Snapshots(2, compile='aot_eager')):
        own = share(dist.get_rank())
        found = torch.autograd.grad(loss_of_rank(own, backward), own.wanted())
        assert_same(list(found), expected)


def check_a_compiled_unroll() -> None:
    own = share(dist.get_rank())

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return loss_of_rank(own._replace(weights=weights, x=own.x[:2]), Stored())

    _same_when_compiled(torch.func.grad(loss), own.weights.detach())
