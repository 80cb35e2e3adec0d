"""An inner loop whose data is spread over ranks, and the same loop in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import torchopt
from support.trees import generator
from torchopt import unrolling
from torchopt.distributed import mean_over_ranks

LENGTH = 5
DTYPE = torch.float64


class Share(NamedTuple):
    """What one rank has: a copy of the meta-parameters, and data of its own.

    Attributes:
        start: Initial parameters; a copy on every rank.
        lr: Learning rate; a copy on every rank.
        weights: Weights of the rank's own examples.
        x: The rank's batches of all steps.
        held_out: Data of the rank's outer loss.
    """

    start: dict[str, torch.Tensor]
    lr: torch.Tensor
    weights: torch.Tensor
    x: torch.Tensor
    held_out: torch.Tensor

    def wanted(self) -> list[torch.Tensor]:
        return [*self.start.values(), self.lr, self.weights]


def share(rank: int, lr: float = 0.05) -> Share:
    common, own = generator(7), generator(100 + rank)

    def normal(source: torch.Generator, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=DTYPE)

    start = {'w': normal(common, 3, 2), 'b': normal(common, 2)}
    made = Share(
        start,
        torch.tensor(lr, dtype=DTYPE),
        normal(own, 4).abs(),
        normal(own, LENGTH, 4, 3),
        normal(own, 5, 3),
    )
    for tensor in made.wanted():
        tensor.requires_grad_()
    return made


def shares() -> list[Share]:
    return [share(rank) for rank in range(dist.get_world_size())]


def inner_loss(params: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    outputs = torch.tanh(x @ params['w'] + params['b'])
    return (outputs.sum(-1).square() * weights).mean()


def outer_loss(params: Any, held_out: torch.Tensor) -> torch.Tensor:
    return torch.tanh(held_out @ params['w'] + params['b']).square().sum()


def moved(carry: Any, gradients: Any, lr: torch.Tensor) -> Any:
    params, state = carry
    updates, state = torchopt.adam(lr, eps_root=1e-3).update(
        gradients, state, params=params, inplace=False
    )
    return torchopt.apply_updates(params, updates, inplace=False), state


def step(carry: Any, x: torch.Tensor, consts: Any) -> Any:
    """One step on the mean of the gradients of all ranks."""
    gradients = mean_over_ranks(unrolling.grad(inner_loss)(carry[0], x, consts['weights']))
    return moved(carry, gradients, consts['lr']), None


def first_carry(start: Any) -> Any:
    return start, torchopt.adam().init({name: leaf.detach() for name, leaf in start.items()})


def loss_of_rank(
    own: Share, backward: unrolling.Strategy, step: Callable[..., Any] = step
) -> torch.Tensor:
    """The outer loss of this rank, whose inner loop uses the data of all."""
    consts = {'lr': own.lr, 'weights': own.weights}
    (params, _), _ = torchopt.unroll(step, first_carry(own.start), own.x, consts, backward=backward)
    return outer_loss(params, own.held_out)


def losses_in_one_process(all_shares: list[Share], window: int = LENGTH) -> list[torch.Tensor]:
    """The outer losses of all ranks, computed here; only the last steps are differentiated."""
    carries = [first_carry(one.start) for one in all_shares]
    for number in range(LENGTH):
        if number == LENGTH - window > 0:
            carries = [torchopt.pytree.tree_map(torch.detach, carry) for carry in carries]
        found = [
            torch.func.grad(inner_loss)(carry[0], one.x[number], one.weights)
            for carry, one in zip(carries, all_shares)
        ]
        mean = torchopt.pytree.tree_map(lambda *gradients: sum(gradients) / len(gradients), *found)
        carries = [moved(carry, mean, one.lr) for carry, one in zip(carries, all_shares)]
    return [outer_loss(params, one.held_out) for (params, _), one in zip(carries, all_shares)]


def gradients_in_one_process(window: int = LENGTH) -> list[torch.Tensor]:
    """The derivative of the sum of all losses by this rank's own tensors."""
    everything = shares()
    total = torch.stack(losses_in_one_process(everything, window)).sum()
    wanted = everything[dist.get_rank()].wanted()
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found)]


def assert_same(found: Any, expected: Any) -> None:
    """Assert equality at 1e-12."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
