"""A loop as the engines of data attribution write it, without this project.

Every few steps of plain training the parameters and moments are saved to a folder. The way back
loads one snapshot after the other, trains from it again to the next one, and takes the derivative
of each of these steps from the last to the first, with cotangents that are carried by hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from unrolls.problems import EPS_ROOT, LR, Problem, weighted_loss
from unrolls.ways import held_out_loss

BETA1, BETA2, EPS, WEIGHT_DECAY = 0.9, 0.999, 1e-8, 1e-2  # of torch.optim.AdamW


class State(NamedTuple):
    """What training changes, each a list with one tensor for each parameter."""

    params: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        return [*self.params, *self.first, *self.second]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> State:
        """Return the state with these tensors."""
        count = len(tensors) // 3
        return cls(tensors[:count], tensors[count : 2 * count], tensors[2 * count :])


def meta_gradient(problem: Problem, folder: Path) -> Tensor:
    """Return the gradient of the held-out loss by the weights of all examples."""
    steps = len(problem.batches)
    distance = math.isqrt(steps - 1) + 1
    params = [param.detach() for param in problem.net.parameters()]
    state = State(params, *([torch.zeros_like(param) for param in params] for _ in range(2)))
    weights = problem.weights.detach()
    for number in range(steps):
        if number % distance == 0:
            torch.save(state.tensors(), _file(folder, number))
        state = _trained(problem, state, number, weights)

    leaves = [param.requires_grad_() for param in state.params]
    loss = held_out_loss(problem, _named(problem, leaves))
    zeros = [torch.zeros_like(moment) for moment in [*state.first, *state.second]]
    cotangents = [*torch.autograd.grad(loss, leaves), *zeros]
    del state, leaves, loss, zeros
    total = torch.zeros_like(weights)
    for start in reversed(range(0, steps, distance)):
        states = [State.of(torch.load(_file(folder, start), weights_only=True))]
        for number in range(start, min(start + distance, steps) - 1):
            states.append(_trained(problem, states[-1], number, weights))
        while states:
            number = start + len(states) - 1
            cotangents, part = _step_back(problem, states.pop(), number, weights, cotangents)
            total += part
        _file(folder, start).unlink()
    return total


def _file(folder: Path, number: int) -> Path:
    return folder / f'{number}.pt'


def _named(problem: Problem, params: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip((name for name, _ in problem.net.named_parameters()), params))


def _gradients(
    problem: Problem, params: list[Tensor], number: int, weights: Tensor, *, create_graph: bool
) -> tuple[Tensor, ...]:
    batch = problem.batches[number]
    logits = functional_call(problem.net, _named(problem, params), (problem.inputs[batch],))
    loss = weighted_loss(logits, problem.targets[batch], weights[batch])
    return torch.autograd.grad(loss, params, create_graph=create_graph)


def _adamw(state: State, gradients: tuple[Tensor, ...], number: int) -> State:
    correction1, correction2 = 1 - BETA1 ** (number + 1), 1 - BETA2 ** (number + 1)
    found = State([], [], [])
    for param, first, second, gradient in zip(*state, gradients):
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient**2
        ratio = first / correction1 / ((second / correction2 + EPS_ROOT).sqrt() + EPS)
        found.params.append(param - LR * (ratio + WEIGHT_DECAY * param))
        found.first.append(first)
        found.second.append(second)
    return found


def _trained(problem: Problem, state: State, number: int, weights: Tensor) -> State:
    """Return the state after a step."""
    leaves = [param.detach().requires_grad_() for param in state.params]
    gradients = _gradients(problem, leaves, number, weights, create_graph=False)
    with torch.no_grad():
        return _adamw(state, gradients, number)


def _step_back(
    problem: Problem, state: State, number: int, weights: Tensor, cotangents: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Return the cotangents of the state before a step, and of the weights in this step."""
    leaves = State.of([tensor.detach().requires_grad_() for tensor in state.tensors()])
    weights = weights.detach().requires_grad_()
    gradients = _gradients(problem, leaves.params, number, weights, create_graph=True)
    after = _adamw(leaves, gradients, number)
    *found, part = torch.autograd.grad(after.tensors(), [*leaves.tensors(), weights], cotangents)
    return found, part
