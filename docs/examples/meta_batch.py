"""A meta-batch over processes: tasks are spread over ranks, and DDP averages the meta-gradient.

Learns initial parameters and a learning rate from which five steps of Adam fit an unseen sinusoid.
Each rank has its share of the tasks. But for rounding, what is learned does not depend on the
number of ranks.

    torchrun --nproc-per-node 2 meta_batch.py
    python meta_batch.py                         # the same in one process
"""

from __future__ import annotations

import argparse
import math
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

import torchopt
from torchopt.unrolling import Recomputed, grad

STEPS, POINTS = 5, 10
MEAN_SQUARE = nn.MSELoss()


class MetaLoss(nn.Module):
    """The error after adaptation, as a function of what is learned: a module that DDP can wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1))
        self.log_lr = nn.Parameter(torch.tensor(-4.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean error of tasks of shape (tasks, points, 1)."""
        return torch.vmap(self.error_of)(x, y).mean()

    def error_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Adapt to the first half of the points, and return the error on the second half."""

        def error(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return MEAN_SQUARE(functional_call(self.start, params, (x,)), y)

        def step(carry, _, consts):
            (params, state), (lr, x, y) = carry, consts
            gradients = grad(error)(params, x, y)
            updates, state = torchopt.adam(lr).update(
                gradients, state, params=params, inplace=False
            )
            return (torchopt.apply_updates(params, updates, inplace=False), state), None

        params = dict(self.start.named_parameters())
        carry = params, torchopt.adam().init(params)
        consts = self.log_lr.exp(), x[:POINTS], y[:POINTS]
        (params, _), _ = torchopt.unroll(
            step, carry, consts=consts, length=STEPS, backward=Recomputed()
        )
        return error(params, x[POINTS:], y[POINTS:])


def sample_tasks(tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw sinusoids, and points of each; all ranks draw the same."""
    amplitude, phase, place = torch.rand(3, tasks, 2 * POINTS, 1, generator=generator)
    x = 10 * place - 5
    return x, (0.1 + 4.9 * amplitude[:, :1]) * torch.sin(x - math.pi * phase[:, :1])


def learn(iterations: int, spread: bool, tasks: int = 16) -> list[float]:
    """Learn from some tasks in every iteration, alone or with all ranks; return all errors."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if spread else (0, 1)
    if tasks % ranks:
        raise ValueError(f'{tasks} tasks cannot be shared equally by {ranks} ranks')
    torch.manual_seed(0)
    meta_loss: nn.Module = MetaLoss()
    optimizer = torchopt.Adam(meta_loss.parameters(), lr=1e-2)
    if spread:
        meta_loss = DistributedDataParallel(meta_loss)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(iterations):
        x, y = sample_tasks(tasks, generator)
        loss = meta_loss(x[rank::ranks], y[rank::ranks])
        optimizer.zero_grad()
        loss.backward()  # DDP averages the gradients over ranks
        optimizer.step()
        mean = loss.detach()
        if spread:
            mean = torchopt.distributed.mean_over_ranks(mean)
        errors.append(mean.item())
    return errors


def run(iterations: int) -> None:
    """Learn, and let the first rank report."""
    errors = learn(iterations, spread=dist.is_initialized())
    if not dist.is_initialized() or dist.get_rank() == 0:
        tenth = max(1, iterations // 10)
        for what, part in (('first', errors[:tenth]), ('last', errors[-tenth:])):
            print(f'{what} {tenth} iterations: mean squared error {sum(part) / tenth:.3f}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if 'RANK' in os.environ:  # torchrun has started this process
        dist.init_process_group('gloo')
    run(arguments.iterations)
    if dist.is_initialized():
        dist.destroy_process_group()
