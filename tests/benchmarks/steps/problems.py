"""The problems that are timed, each a function of the library's adapter."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adapters import Adapter, Tensors
from problems import SINUSOIDS, sinusoids, vjp

Problem = Callable[[Adapter, torch.dtype, float], Callable[[], Tensors]]


def adam_step(count: int, *shape: int) -> Problem:
    """Differentiate an Adam step with respect to gradients and moments."""

    def make(adapter: Adapter, dtype: torch.dtype, eps_root: float) -> Callable[[], Tensors]:
        random = torch.Generator().manual_seed(0)

        def normal() -> Tensors:
            values = [
                torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(count)
            ]
            return [value.to(dtype) for value in values]

        inputs = [*normal(), *normal(), *(x.square() for x in normal())]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        cotangents = [*normal(), *normal(), *normal()]
        step = adapter.adam_step(
            inputs[:count], inputs[count : 2 * count], inputs[2 * count :], eps_root
        )
        return lambda: vjp(step(), cotangents, inputs)

    return make


def maml(rule: str, *, batched: bool = False) -> Problem:
    """Meta-gradient of sinusoid tasks through 5 inner steps."""

    def make(adapter: Adapter, dtype: torch.dtype, eps_root: float) -> Callable[[], Tensors]:
        net, tasks = sinusoids(SINUSOIDS['small'], dtype)
        return adapter.meta_step(net, tasks, rule, eps_root, 5, batched=batched)

    return make


PROBLEMS = {
    'Adam step, 10 × (64,)': adam_step(10, 64),
    'Adam step, 60 × (64, 64)': adam_step(60, 64, 64),
    'Adam step, 4 × (1024, 1024)': adam_step(4, 1024, 1024),
    'MAML, Adam, object-oriented': maml('adam'),
    'MAML, Adam, functional, vmap': maml('adam', batched=True),
    'MAML, SGD, object-oriented': maml('sgd'),
    'MAML, SGD, functional, vmap': maml('sgd', batched=True),
}
