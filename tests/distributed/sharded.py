"""A small network whose parameters are sharded in several ways, and its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import torchopt
from distributed.problem import DTYPE
from support.trees import generator
from torchopt.unrolling import ModuleStep, Strategy

ROWS = 12
_source = generator(5)
XS = torch.randn(3, ROWS, 4, generator=_source, dtype=DTYPE)
HELD_OUT = torch.randn(ROWS, 4, generator=_source, dtype=DTYPE)
WEIGHTS = torch.rand(ROWS, generator=_source, dtype=DTYPE)
ONES = torch.ones(ROWS, dtype=DTYPE)


class Net(nn.Module):
    """Two layers; five hidden units do not divide evenly."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, hidden, dtype=DTYPE), nn.Linear(hidden, 4, dtype=DTYPE)
        source = generator(0)
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randn(param.shape, generator=source, dtype=DTYPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).tanh())


def mesh() -> Any:
    return init_device_mesh('cpu', (dist.get_world_size(),))


def placed(placement: Any) -> Net:
    """A network whose parameters are all placed in one way."""
    net, ranks = Net(), mesh()
    for layer in (net.a, net.b):
        for name, param in list(layer.named_parameters()):
            moved = distribute_tensor(param.detach(), ranks, [placement])
            setattr(layer, name, nn.Parameter(moved))
    return net


def tensor_parallel() -> nn.Module:
    net = Net(hidden=8)
    return parallelize_module(net, mesh(), {'a': ColwiseParallel(), 'b': RowwiseParallel()})


def loss(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (net(x).square().sum(-1) * weights).mean()


def gathered_loss(net: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """FSDP by autograd: parameters are whole only while the loss is computed."""
    return loss(_gathered(net, Replicate()), x, weights)


def gathered_loss_of_own_rows(
    net: nn.Module, x: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The same, where each rank has a part of the rows: gradients are added up over ranks."""
    ranks = dist.get_world_size()
    own = slice(dist.get_rank() * ROWS // ranks, (dist.get_rank() + 1) * ROWS // ranks)
    return loss(_gathered(net, Partial()), x[own], weights[own]) / ranks


def _gathered(net: nn.Module, gradient: Any) -> Callable[..., torch.Tensor]:
    whole = {
        name: param.redistribute(placements=[Replicate()]).to_local(grad_placements=[gradient])
        for name, param in net.named_parameters()
    }
    return lambda x: torch.func.functional_call(net, whole, (x,))


def loss_of_sharded_rows(net: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Data parallel by DTensor: whole parameters, and rows that are spread over ranks."""
    ranks = mesh()
    rows = distribute_tensor(x, ranks, [Shard(0)])
    weights = DTensor.from_local(weights, ranks, [Replicate()]).redistribute(placements=[Shard(0)])
    return loss(net, rows, weights).full_tensor()


def whole(tensors: Any) -> list[torch.Tensor]:
    return [t.full_tensor() if isinstance(t, DTensor) else t for t in tensors]


def _adam(before: Any, options: dict[str, Any]) -> torchopt.GradientTransformation:
    adam = torchopt.adam(0.05, eps_root=1e-3, **options)
    return adam if before is None else torchopt.chain(before, adam)


def by_module_step(
    net: nn.Module, backward: Strategy, loss: Any = loss, before: Any = None, **options: Any
) -> list[torch.Tensor]:
    """Gradients by the weights of the data and by the initial parameters."""
    weights, start = WEIGHTS.clone().requires_grad_(), list(net.parameters())
    inner = ModuleStep(net, _adam(before, options), loss)
    carry, _ = torchopt.unroll(inner, inner.init(), XS, weights, backward=backward)
    inner.write(carry)
    return whole(torch.autograd.grad(loss(net, HELD_OUT, ONES), [weights, *start]))


def by_meta_optimizer(
    net: nn.Module, loss: Any = loss, before: Any = None, **options: Any
) -> list[torch.Tensor]:
    weights, start = WEIGHTS.clone().requires_grad_(), list(net.parameters())
    optimizer = torchopt.MetaOptimizer(net, _adam(before, options))
    for x in XS:
        optimizer.step(loss(net, x, weights))
    return whole(torch.autograd.grad(loss(net, HELD_OUT, ONES), [weights, *start]))
