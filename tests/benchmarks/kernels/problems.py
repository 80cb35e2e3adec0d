"""The problems that are timed: steps of an optimizer, differentiable or in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import torch

import torchopt
from problems import vjp
from torchopt import pytree
from torchopt.registry import OPTIMIZERS as OPTIMIZERS_OF_CORE

Run = Callable[[], object]

# Number and shape of the tensors.
SIZES = {
    '10 × (64,)': (10, (64,)),
    '60 × (64, 64)': (60, (64, 64)),
    '4 × (1024, 1024)': (4, (1024, 1024)),
}
# Number and shape of the weights of convolutions.
IMAGES = (20, (64, 64, 3, 3))
SMALLEST = '10 × (64,)'
LARGEST = '4 × (1024, 1024)'
# The number of steps that are taken one after the other.
UNROLLED = 5
# Options with which every state of a kernel affects its result.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    'adam': {'eps_root': 1e-8},
    'adamw': {'eps_root': 1e-8},
    'adamax': {},
    'radam': {},
    'nadam': {},
    'adan': {},
    'lion': {},
    'adagrad': {},
    'adadelta': {},
    'rmsprop': {'centered': True, 'momentum': 0.9},
    'rprop': {},
    'asgd': {},
    'sgd': {'momentum': 0.9},
}


# The same optimizer with other options, after a comma. These steps are almost nothing.
SHORT: dict[str, dict[str, Any]] = {'sgd, plain': {}, 'sgd, weight decay': {'weight_decay': 0.01}}


def normal(size: str, seed: int, device: str) -> list[torch.Tensor]:
    """Return the tensors of a size with random values."""
    count, shape = SIZES[size]
    random = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=random, device=device) for _ in range(count)]


def differentiable(
    name: str, size: str, device: str, *, accelerated: bool, steps: int = 1
) -> tuple[Run, Run]:
    """Return steps, and steps with their derivative by all gradients and the first moments.

    Args:
        name: A key of ``OPTIMIZERS`` or ``SHORT``.
        size: A key of ``SIZES``.
        device: Where the tensors are.
        accelerated: Use the fused kernels.
        steps: The number of steps; each takes the state of the step before.
    """
    make, options = getattr(torchopt, name.partition(',')[0]), {**OPTIMIZERS, **SHORT}[name]
    optimizer = make(lr=0.01, **options, use_accelerated_op=accelerated)
    grads = [normal(size, seed, device) for seed in range(steps)]
    params = normal(size, steps, device)
    leaves, structure = pytree.tree_flatten(optimizer.init(params))
    # Numbers of leaves, in float64, are constants in kernels.
    floating = [i for i, leaf in enumerate(leaves) if leaf.dtype == params[0].dtype]
    for i in floating:
        leaves[i] = torch.rand_like(leaves[i]) + 0.5
    inputs = [*itertools.chain(*grads), *(leaves[i] for i in floating)]
    first = pytree.tree_unflatten(structure, [*leaves])
    cotangents = [torch.randn_like(x) for x in inputs]
    for x in inputs:
        x.requires_grad_()

    def run() -> list[torch.Tensor]:
        state, results = first, []
        for gradients in grads:
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            results += updates
        last = pytree.tree_leaves(state)
        return [*results, *[last[i] for i in floating]]

    return run, lambda: vjp(run(), cotangents, inputs)


def in_place(kind: str, name: str, size: str, device: str) -> Run:
    """Return the step of an object-oriented optimizer that writes into its parameters.

    Args:
        kind: ``'composite'``, ``'accelerated'``, or torch's ``'fused'`` or ``'foreach'``.
        name: A key of ``OPTIMIZERS``.
        size: A key of ``SIZES``.
        device: Where the tensors are.
    """
    params = normal(size, 0, device)
    for param, grad in zip(params, normal(size, 1, device)):
        param.requires_grad_().grad = grad
    options = OPTIMIZERS[name]
    entry = _entry(name)
    if kind in ('fused', 'foreach'):
        known = {key: value for key, value in options.items() if key != 'eps_root'}
        made: Any = getattr(torch.optim, str(entry.torch_name))
        return cast(Run, made(params, lr=0.01, **known, **{kind: True}).step)
    made = getattr(torchopt, entry.class_name)
    return cast(Run, made(params, 0.01, **options, use_accelerated_op=kind == 'accelerated').step)


def torch_best(name: str, device: str) -> str | None:
    """Return which of torch's implementations is its fastest: fused where there is one."""
    if _entry(name).torch_name is None:
        return None
    try:
        in_place('fused', name, SMALLEST, device)()
    except (TypeError, RuntimeError):
        return 'foreach'
    return 'fused'


def _entry(name: str) -> Any:
    return next(entry for entry in OPTIMIZERS_OF_CORE if entry.name == name)


def images(kind: str, memory_format: torch.memory_format) -> Run:
    """Return a step of accelerated Adam over the weights of convolutions.

    Args:
        kind: ``'in place'`` or ``'differentiable'``, with its derivative by gradients.
        memory_format: How all tensors lie in memory.
    """
    number, shape = IMAGES
    random = torch.Generator().manual_seed(0)

    def weights() -> list[torch.Tensor]:
        made = [torch.randn(shape, generator=random) for _ in range(number)]
        return [x.contiguous(memory_format=memory_format) for x in made]

    params, grads, cotangents = weights(), weights(), weights()
    if kind == 'in place':
        for param, grad in zip(params, grads):
            param.requires_grad_().grad = grad
        return torchopt.Adam(params, lr=0.01, use_accelerated_op=True).step
    optimizer = torchopt.adam(lr=0.01, eps_root=1e-8, use_accelerated_op=True)
    state = optimizer.init(params)
    inputs = [grad.requires_grad_() for grad in grads]
    return lambda: vjp(optimizer.update(inputs, state, inplace=False)[0], cotangents, inputs)


def copying(device: str) -> tuple[Run, int]:
    """Return a copy between tensors of the largest size, and the number of bytes it moves."""
    source = normal(LARGEST, 0, device)
    target = [torch.empty_like(x) for x in source]

    def copy() -> None:
        for a, b in zip(target, source):
            a.copy_(b)

    return copy, 2 * sum(x.nbytes for x in source)
