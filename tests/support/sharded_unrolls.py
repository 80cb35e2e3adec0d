"""What ranks do in the tests of unrolls over sharded parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import torchopt
from torchopt import unrolling
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored

DTYPE = torch.float64


def _tensors() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    # Five rows do not divide evenly among the ranks.
    shapes = {'first': (5, 3), 'second': (4, 5)}
    params = {n: torch.randn(s, generator=source, dtype=DTYPE) for n, s in shapes.items()}
    xs = torch.randn(4, 6, 3, generator=source, dtype=DTYPE)
    return params, xs, torch.linspace(0.5, 1.5, 6, dtype=DTYPE)


def _loss(params: dict[str, torch.Tensor], x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    gathered = [
        # The gradient of a parameter goes back to its shards.
        p.redistribute(placements=[Replicate()]).to_local(grad_placements=[Replicate()])
        if isinstance(p, DTensor)
        else p
        for p in params.values()
    ]
    hidden = (x @ gathered[0].T).tanh() @ gathered[1].T
    return (weights * hidden.square().sum(-1)).mean()


def _step(carry: Any, x: torch.Tensor, weights: torch.Tensor) -> Any:
    params, state = carry
    gradients, loss = unrolling.grad_and_value(_loss)(params, x, weights)
    updates, state = torchopt.adam(0.1).update(gradients, state, params=params, inplace=False)
    return (torchopt.apply_updates(params, updates, inplace=False), state), loss


class _Net(nn.Module):
    def __init__(self, params: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, param in params.items():
            self.register_parameter(name, nn.Parameter(param))

    def forward(self, batch: dict[str, torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        params = {'first': self.first, 'second': self.second}
        return _loss(params, batch['x'], weights[batch['indices']])


def _meta_gradients_of_module(
    params: dict[str, torch.Tensor], xs: torch.Tensor, weights: torch.Tensor, backward: Any
) -> list[torch.Tensor]:
    net, weights = _Net(params), weights.detach().requires_grad_()
    step = ModuleStep(net, torchopt.adam(0.1), _Net.__call__, micro_batches=3)
    batches = {'x': xs, 'indices': torch.arange(6).expand(4, 6)}
    end, losses = torchopt.unroll(step, step.init(), batches, weights, backward=backward)
    outer = _loss(end.params, xs[0], torch.ones_like(weights)) + losses.sum()
    return list(torch.autograd.grad(outer, [*net.parameters(), weights]))


def _meta_gradients(params: Any, xs: Any, weights: Any, backward: Any) -> list[torch.Tensor]:
    params = {name: param.detach().requires_grad_() for name, param in params.items()}
    weights = weights.detach().requires_grad_()
    carry = params, torchopt.adam(0.1).init(params)
    (end, _), losses = torchopt.unroll(_step, carry, xs, weights, backward=backward)
    outer = _loss(end, xs[0], torch.ones_like(weights)) + losses.sum()
    return list(torch.autograd.grad(outer, [*params.values(), weights]))


def gather_in_the_loss(folder: Path) -> None:
    """Meta-gradients of sharded parameters are what one process finds."""
    params, xs, weights = _tensors()
    mesh = init_device_mesh('cpu', (dist.get_world_size(),))
    sharded = {name: distribute_tensor(p, mesh, (Shard(0),)) for name, p in params.items()}
    for backward in (Stored(), Recomputed(), Recomputed(keep_gradients=True), Snapshots(2)):
        for gradients in (_meta_gradients, _meta_gradients_of_module):
            expected = gradients(params, xs, weights, Stored())
            found = gradients(sharded, xs, weights, backward)
            assert all(isinstance(gradient, DTensor) for gradient in found[:-1])
            whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in found]
            torch.testing.assert_close(whole, expected, rtol=1e-12, atol=1e-12)
