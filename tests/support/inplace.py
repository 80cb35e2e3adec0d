"""What ``inplace=True`` must not change: meta-gradients, with kernels and without."""

from __future__ import annotations

from typing import Any

import torch

import torchopt
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close


def meta_gradients(case: OptimizerCase, options: dict[str, Any], inputs: str, **made: Any) -> Any:
    """Return the derivative of a loss after three steps with respect to ``inputs``."""
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    lr = {'params': 0.1, 'rate': rate, 'schedule': lambda count: rate / (1 + count)}[inputs]
    optimizer = case.make(lr=lr, **made)
    params = {'w': start if inputs == 'params' else start.detach().requires_grad_()}
    state = optimizer.init(params)
    for _ in range(3):
        (gradient,) = torch.autograd.grad(
            params['w'].sin().sum(), params['w'], create_graph=inputs == 'params'
        )
        updates, state = optimizer.update({'w': gradient}, state, params=params, **options)
        params = torchopt.apply_updates(params, updates, **options)
    wanted = start if inputs == 'params' else rate
    return torch.autograd.grad(params['w'].square().sum(), wanted)


def assert_same_under_torch_func(optimizer: torchopt.GradientTransformation) -> None:
    """Assert that a forgotten ``inplace=False`` changes no derivative of ``torch.func``."""

    def meta_loss(start: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        params = {'w': start}
        state = optimizer.init(params)
        for _ in range(2):
            gradients = torch.func.grad(lambda p: p['w'].sin().sum())(params)
            updates, state = optimizer.update(gradients, state, params=params, **options)
            params = torchopt.apply_updates(params, updates, **options)
        return params['w'].square().sum()

    start = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        derivative = torch.vmap(transform(meta_loss), in_dims=(0, None))
        assert_trees_close(derivative(start, {}), derivative(start, {'inplace': False}))
