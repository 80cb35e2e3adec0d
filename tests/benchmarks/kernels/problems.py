"""The problems that are timed: steps of an optimizer, differentiable or in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import torchopt
from problems import vjp
from torchopt import pytree

Run = Callable[[], object]

# Number and shape of the tensors.
SIZES = {
    '10 × (64,)': (10, (64,)),
    '60 × (64, 64)': (60, (64, 64)),
    '4 × (1024, 1024)': (4, (1024, 1024)),
}
LARGEST = '4 × (1024, 1024)'
# Options with which every state of a kernel affects its result.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    'adam': {'eps_root': 1e-8},
    'adamw': {'eps_root': 1e-8},
    'adamax': {},
    'radam': {},
    'adagrad': {},
    'adadelta': {},
    'rmsprop': {'centered': True, 'momentum': 0.9},
    'sgd': {'momentum': 0.9},
}


def normal(size: str, seed: int, device: str) -> list[torch.Tensor]:
    """Return the tensors of a size with random values."""
    count, shape = SIZES[size]
    random = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=random, device=device) for _ in range(count)]


def differentiable(name: str, size: str, device: str, *, accelerated: bool) -> tuple[Run, Run]:
    """Return a step, and a step with its derivative by gradients and floating-point states."""
    optimizer = getattr(torchopt, name)(lr=0.01, **OPTIMIZERS[name], use_accelerated_op=accelerated)
    grads, params = normal(size, 0, device), normal(size, 1, device)
    leaves, structure = pytree.tree_flatten(optimizer.init(grads))
    floating = [i for i, leaf in enumerate(leaves) if leaf.is_floating_point()]
    for i in floating:
        leaves[i] = torch.rand_like(leaves[i]) + 0.5
    inputs = [x.requires_grad_() for x in (*grads, *(leaves[i] for i in floating))]
    state = pytree.tree_unflatten(structure, leaves)
    cotangents = [torch.randn_like(x) for x in inputs]

    def step() -> list[torch.Tensor]:
        updates, after = optimizer.update(grads, state, params=params, inplace=False)
        return [*updates, *(x for x in pytree.tree_leaves(after) if x.is_floating_point())]

    return step, lambda: vjp(step(), cotangents, inputs)


def in_place(kind: str, size: str, device: str) -> Run:
    """Return the step of an object-oriented Adam that writes into its parameters."""
    params = normal(size, 0, device)
    for param, grad in zip(params, normal(size, 1, device)):
        param.requires_grad_().grad = grad
    if kind == 'torch.optim.Adam(fused=True)':
        return torch.optim.Adam(params, lr=0.01, fused=True).step
    return torchopt.Adam(params, lr=0.01, use_accelerated_op=kind == 'accelerated').step


def copying(device: str) -> tuple[Run, int]:
    """Return a copy between tensors of the largest size, and the number of bytes it moves."""
    source = normal(LARGEST, 0, device)
    target = [torch.empty_like(x) for x in source]

    def copy() -> None:
        for a, b in zip(target, source):
            a.copy_(b)

    return copy, 2 * sum(x.nbytes for x in source)
