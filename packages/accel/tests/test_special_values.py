"""Zeros, tiny numbers, infinities and NaN: values and derivatives equal the rule of core."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import OptimizerCase
from torchopt import pytree

INF, NAN = float('inf'), float('nan')
FUSED = [case for case in CASES if not {'amsgrad', 'mask'} & case.options.keys()]


def one_step(case: OptimizerCase, gradient: Any, moment: float, **options: Any) -> list[Any]:
    g = gradient.clone().requires_grad_()
    optimizer = case.make(**options)
    state = pytree.tree_map(
        lambda s: (s + moment).requires_grad_() if s.is_floating_point() else s,
        optimizer.init([g]),
    )
    params = [torch.ones_like(g)]
    updates, new = optimizer.update([g], state, params=params, inplace=False)
    outputs = [*updates, *(x for x in pytree.tree_leaves(new) if x.is_floating_point())]
    moments = [x for x in pytree.tree_leaves(state) if x.is_floating_point()]
    grads = torch.autograd.grad(sum(x.sum() for x in outputs), [g, *moments])
    return [outputs, grads]


@pytest.mark.parametrize('case', FUSED, ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('moment', [0.0, 0.5])
def test_zero_and_tiny_gradients(
    case: OptimizerCase, dtype: torch.dtype, moment: float, device: str
) -> None:
    numbers = [0.0, -0.0, 1e-30, -1e-12, 1e-8, 1.0, 1e10]
    gradient = torch.tensor(numbers, dtype=dtype, device=device)
    expected = one_step(case, gradient, moment)
    actual = one_step(case, gradient, moment, use_accelerated_op=True)
    resolution = 1e-11 if dtype == torch.float64 else 2e-5
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected)):
        torch.testing.assert_close(mine, theirs, rtol=resolution, atol=resolution)
        assert mine[:2].isfinite().all()


@pytest.mark.parametrize('case', FUSED, ids=str)
def test_infinite_and_nan_gradients(case: OptimizerCase, device: str) -> None:
    gradient = torch.tensor([INF, -INF, NAN, 0.5], dtype=torch.float64, device=device)
    expected, actual = (
        one_step(case, gradient, 0.5, use_accelerated_op=accelerated)[0]
        for accelerated in (False, True)
    )
    for mine, theirs in zip(actual, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize('name', ['adam', 'radam', 'rmsprop', 'adagrad'])
@pytest.mark.parametrize('eps', [0.0, 1e3])
def test_extreme_eps(name: str, eps: float, device: str) -> None:
    case = next(case for case in FUSED if str(case) == f'{name}-defaults')
    gradient = torch.tensor([0.3, -2.0], dtype=torch.float64, device=device)
    expected = one_step(case, gradient, 0.1, eps=eps)
    actual = one_step(case, gradient, 0.1, eps=eps, use_accelerated_op=True)
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected)):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
