"""The meta-gradient of an unroll of K steps, computed in independent ways."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import MAIN_CASES, PATH_CASES, OptimizerCase
from support.unrolled import (
    META,
    START,
    functional_meta_loss,
    meta_gradient_by_differences,
    object_meta_loss,
)
from torchopt import pytree


def gradient(loss: torch.Tensor, inputs: Any) -> Any:
    leaves, structure = pytree.tree_flatten(inputs)
    return pytree.tree_unflatten(structure, torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_meta_gradient_in_three_ways(case: OptimizerCase) -> None:
    """By the object-oriented unroll, by torch.func.grad, by finite differences."""
    phi = META.clone().requires_grad_()
    start = pytree.tree_map(lambda x: x.clone().requires_grad_(), START)
    found = gradient(object_meta_loss(case.make(), phi, start), (phi, start))
    meta_loss = partial(functional_meta_loss, case.make())
    functional = torch.func.grad(meta_loss, argnums=(0, 1))(META, START)
    differences = meta_gradient_by_differences(case.make(), META, START)
    by_phi, _ = found
    # Only the inner loss depends on phi, so that phi enters the unroll through gradients alone.
    assert (by_phi != 0).all() if case.entry.smooth else (by_phi == 0).all()
    for mine, theirs, numerical in zip(*map(pytree.tree_leaves, (found, functional, differences))):
        assert mine.abs().min() > 0 or not case.entry.smooth
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(mine, numerical, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_meta_gradient_to_hyperparameters(case: OptimizerCase) -> None:
    values = case.tensor_options()
    values |= case.eps(torch.tensor(1e-3, dtype=torch.float64, requires_grad=True))
    if case.has('eps_root'):
        values['eps_root'] = torch.tensor(1e-3, dtype=torch.float64, requires_grad=True)
    leaves, structure = pytree.tree_flatten(values)

    def meta_loss(*options: torch.Tensor) -> torch.Tensor:
        optimizer = case.make(**pytree.tree_unflatten(structure, options))
        return functional_meta_loss(optimizer, META, START)

    assert torch.autograd.gradcheck(meta_loss, leaves, check_forward_ad=True)


def test_closed_form_of_sgd_on_a_quadratic() -> None:
    """x_K = (1 - lr a)^K x_0 + (1 - (1 - lr a)^K) c for the loss a (x - c)^2 / 2."""
    a, lr, steps = 0.8, 0.3, 7
    x0, c, rate = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, -1.0, lr)
    )
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=rate))
    x = x0
    for _ in range(steps):
        x = optimizer.step(a * (x - c) ** 2 / 2, x)
    shrink = (1 - lr * a) ** steps
    expected = torch.tensor(
        [shrink, 1 - shrink, -steps * a * (1 - lr * a) ** (steps - 1) * 3.0], dtype=torch.float64
    )
    found = torch.stack(torch.autograd.grad(x, (x0, c, rate)))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize('nesterov', [False, True])
def test_closed_form_of_momentum_on_a_quadratic(nesterov: bool) -> None:
    """(x, m) is multiplied by a 2 x 2 matrix at every step."""
    a, lr, mu, steps = 0.8, 0.3, 0.6, 7
    x0 = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=lr, momentum=mu, nesterov=nesterov))
    x = x0
    for _ in range(steps):
        x = optimizer.step(a * x**2 / 2, x)
    # m' = mu m + a x; x' = x - lr m', or with Nesterov x - lr (a x + mu m').
    along, scale = (a, mu) if nesterov else (0.0, 1.0)
    matrix = torch.tensor(
        [[1 - lr * (along + scale * a), -lr * scale * mu], [a, mu]], dtype=torch.float64
    )
    power = torch.linalg.matrix_power(matrix, steps)[0, 0]
    torch.testing.assert_close(x, 2.0 * power, rtol=1e-13, atol=0)
    (found,) = torch.autograd.grad(x, x0)
    torch.testing.assert_close(found, power, rtol=1e-13, atol=0)


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_a_dead_unit_keeps_the_meta_gradient_right(case: OptimizerCase) -> None:
    """The gradient of a ReLU unit that never fires is 0 at every step; its neighbour's is not."""
    inputs = torch.tensor([[0.5, 1.0], [1.5, 0.3]], dtype=torch.float64)
    start = {'w': torch.tensor([[0.9, -3.0], [0.4, -2.0]], dtype=torch.float64)}

    def meta_loss(phi: torch.Tensor) -> torch.Tensor:
        def loss(params: Any) -> torch.Tensor:
            hidden = (inputs @ params['w']).relu()
            return ((hidden.sum(1) - phi) ** 2).sum() + 0 * params['w'].sum()

        optimizer, params = case.make(), start
        state = optimizer.init(params)
        for _ in range(3):
            gradients = torch.func.grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return loss(params)

    phi = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(meta_loss, phi, check_forward_ad=True)
