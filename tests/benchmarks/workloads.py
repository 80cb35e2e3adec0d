"""The workloads, and their timing in the environment of one library by pytest-benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from adapters import Adapter, Task, Tensors

Workload = Callable[[Adapter, torch.dtype, float], Callable[[], Tensors]]


def adam_step(count: int, *shape: int) -> Workload:
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
        return lambda: list(torch.autograd.grad(step(), inputs, cotangents))

    return make


def maml(rule: str, *, batched: bool = False) -> Workload:
    """Meta-gradient of 25 sinusoid tasks of 10 shots through the inner steps of an MLP 40-40."""

    def make(adapter: Adapter, dtype: torch.dtype, eps_root: float) -> Callable[[], Tensors]:
        random = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
        ).to(dtype)
        amplitude = 0.1 + 4.9 * torch.rand(25, 1, 1, generator=random)
        phase = math.pi * torch.rand(25, 1, 1, generator=random)
        x, outer_x = 10 * torch.rand(2, 25, 10, 1, generator=random) - 5
        y, outer_y = (amplitude * torch.sin(points - phase) for points in (x, outer_x))
        tasks = Task(*(points.to(dtype) for points in (x, y, outer_x, outer_y)))
        if batched:
            return adapter.batched_meta_gradient(net, tasks, rule, eps_root)
        return adapter.meta_gradient(net, [Task(*task) for task in zip(*tasks)], rule, eps_root)

    return make


WORKLOADS = {
    'Adam step, 10 × (64,)': adam_step(10, 64),
    'Adam step, 60 × (64, 64)': adam_step(60, 64, 64),
    'Adam step, 4 × (1024, 1024)': adam_step(4, 1024, 1024),
    'MAML, Adam, object-oriented': maml('adam'),
    'MAML, Adam, functional, vmap': maml('adam', batched=True),
    'MAML, SGD, object-oriented': maml('sgd'),
    'MAML, SGD, functional, vmap': maml('sgd', batched=True),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the workloads that ``--only`` names."""
    only = metafunc.config.getoption('only')
    metafunc.parametrize('name', [name for name in WORKLOADS if only in name])


def test_workload(name: str, adapter: Adapter, benchmark) -> None:
    """Time a workload in float32, after a look in float64 at what it computes."""
    make = WORKLOADS[name]
    try:
        fingerprints = {
            eps_root: fingerprint(make(adapter, torch.float64, eps_root)())
            for eps_root in adapter.eps_roots
        }
    except NotImplementedError:
        pytest.skip('not supported')
    benchmark.extra_info.update(fingerprints=fingerprints, eps_root=adapter.eps_roots[0])
    benchmark(make(adapter, torch.float32, adapter.eps_roots[0]))


def fingerprint(tensors: Tensors) -> list[float]:
    """Return some thousand values of a result, by which two libraries are compared."""
    values = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return values[:: 1 + len(values) // 4000].tolist()
