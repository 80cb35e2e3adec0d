"""Tasks over ranks: DDP around a module whose forward is the meta-loss."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchopt
from distributed.problem import DTYPE, assert_same
from support.trees import generator
from torchopt.distributed import mean_over_ranks
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
)

MODES = (
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True),
    Snapshots(2),
    ForwardMode(200),
)
STEPS = 4
TASKS_PER_RANK = 2


def _tasks(rank: int) -> torch.Tensor:
    """Inputs and targets of the tasks of a rank."""
    return torch.randn(TASKS_PER_RANK, STEPS + 1, 5, 4, generator=generator(50 + rank), dtype=DTYPE)


class MetaLoss(nn.Module):
    """The loss of a learner after some steps, as a function of its start and its learning rate."""

    def __init__(self, backward: Strategy) -> None:
        super().__init__()
        self.start = nn.Linear(3, 1, dtype=DTYPE)
        with torch.no_grad():
            for position, param in enumerate(self.start.parameters()):
                param.copy_(torch.randn(param.shape, generator=generator(position), dtype=DTYPE))
        self.log_lr = nn.Parameter(torch.tensor(-2.0, dtype=DTYPE))
        self.backward = backward

    def forward(self, tasks: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._of_one(task) for task in tasks]).mean()

    def _of_one(self, task: torch.Tensor) -> torch.Tensor:
        step = ModuleStep(self.start, lambda lr: torchopt.adam(lr, eps_root=1e-3), _inner_loss)
        lr = self.log_lr.exp()
        carry, _ = torchopt.unroll(
            step, step.init(lr.detach()), task[:STEPS], lr, backward=self.backward
        )
        return torch.func.functional_call(
            _Criterion(self.start), {f'net.{k}': v for k, v in carry.params.items()}, task[STEPS]
        )


def _inner_loss(net: nn.Module, batch: torch.Tensor, consts: Any) -> torch.Tensor:
    return (net(batch[:, :3]) - batch[:, 3:]).square().mean().sqrt()


class _Criterion(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return _inner_loss(self.net, batch, None)


def _trained(wrap: Any, tasks: torch.Tensor, backward: Strategy) -> Any:
    """Gradients of the first outer step, and the meta-parameters after three."""
    module = MetaLoss(backward)
    wrapped = wrap(module)
    optimizer = torchopt.Adam(module.parameters(), lr=0.1)
    first = None
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(tasks).backward()
        first = first or [
            None if param.grad is None else param.grad.clone() for param in module.parameters()
        ]
        optimizer.step()
    return first, [param.detach() for param in module.parameters()]


def check_every_mode() -> None:
    own = _tasks(dist.get_rank())
    everything = torch.cat([_tasks(rank) for rank in range(dist.get_world_size())])
    for backward in MODES:
        expected = _trained(lambda module: module, everything, backward)
        assert_same(_trained(DistributedDataParallel, own, backward), expected)


def check_options_of_ddp() -> None:
    own = _tasks(dist.get_rank())
    expected = _trained(DistributedDataParallel, own, Recomputed())
    for option in ('gradient_as_bucket_view', 'static_graph', 'find_unused_parameters'):

        def wrap(module: nn.Module, option: str = option) -> nn.Module:
            return DistributedDataParallel(module, **{option: True})

        assert_same(_trained(wrap, own, Recomputed()), expected)


def check_truncated() -> None:
    """The start of the learner has no gradient, which DDP must be told."""
    own = _tasks(dist.get_rank())
    everything = torch.cat([_tasks(rank) for rank in range(dist.get_world_size())])
    expected = _trained(lambda module: module, everything, Truncated(2))
    assert None in expected[0]
    found = _trained(
        lambda module: DistributedDataParallel(module, find_unused_parameters=True),
        own,
        Truncated(2),
    )
    assert_same(found, expected)


def check_a_graph_that_changes_is_not_static() -> None:
    own = _tasks(dist.get_rank())
    module = MetaLoss(Recomputed())
    wrapped = DistributedDataParallel(module, static_graph=True)
    wrapped(own).backward()
    module.backward = Truncated(2)
    with pytest.raises(RuntimeError, match='training graph has changed'):
        for _ in range(2):
            wrapped(own).backward()


def check_gradients_without_backward_are_local() -> None:
    """DDP averages what ``backward()`` accumulates, and nothing that autograd.grad returns."""
    own = _tasks(dist.get_rank())
    everything = torch.cat([_tasks(rank) for rank in range(dist.get_world_size())])
    expected = _trained(lambda module: module, everything, Recomputed())[0]
    module = MetaLoss(Recomputed())
    wrapped = DistributedDataParallel(module)
    local = torch.autograd.grad(wrapped(own), list(module.parameters()))
    assert_same(list(mean_over_ranks(local)), expected)
    assert not torch.allclose(local[0], expected[0])


def check_a_registered_network_without_a_gradient() -> None:
    module = MetaLoss(Recomputed())
    module.inner = nn.Linear(3, 1)
    wrapped = DistributedDataParallel(module)
    own = _tasks(dist.get_rank())
    with pytest.raises(RuntimeError, match='parameters that were not used in producing loss'):
        for _ in range(2):
            wrapped(own).backward()
    module.inner.requires_grad_(False)
    wrapped = DistributedDataParallel(module)
    for _ in range(2):
        wrapped(own).backward()


def check_the_example() -> None:
    path = Path(__file__).parents[2] / 'docs' / 'examples' / 'meta_batch.py'
    example: Any = runpy.run_path(str(path))
    torch.set_default_dtype(DTYPE)
    try:
        found, expected = (example['learn'](4, spread, tasks=8) for spread in (True, False))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
