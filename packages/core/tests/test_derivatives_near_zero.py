"""Derivatives where gradients are zero, tiny, or as small as eps, also after steps of zeros.

The finite-difference step is far below the scale of the entry that varies. It is accurate enough,
because float64 has its full relative precision near zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, PATH_CASES, OptimizerCase
from torchopt import pytree

EPS = 1e-8
# One scale per entry: zero, far below eps, eps itself, above eps, and an ordinary gradient.
GRADIENTS = [0.0, 1e-12, EPS, -EPS, 1e-4, -1e-4, 0.3]
ELEMENTWISE = [case for case in CASES if case.entry.elementwise]


def first_update_after(
    case: OptimizerCase, silent_steps: int, dtype: torch.dtype = torch.float64
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The update as a function of the first gradients that are not zero."""
    options = case.eps(EPS) if case.label != 'eps' else {}
    optimizer = case.make(**options)
    params = torch.zeros(len(GRADIENTS), dtype=dtype)
    state = optimizer.init(params)
    for _ in range(silent_steps):
        _, state = optimizer.update(torch.zeros_like(params), state, params=params, inplace=False)
    state = pytree.tree_map(torch.Tensor.detach, state)

    def update(gradients: torch.Tensor) -> torch.Tensor:
        result, _ = optimizer.update(gradients, state, params=params, inplace=False)
        return result

    return update


def diagonal_derivative(
    fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, *, create_graph: bool = False
) -> torch.Tensor:
    """The derivative of an elementwise function."""
    (derivative,) = torch.autograd.grad(fn(x).sum(), x, create_graph=create_graph)
    return derivative


def central_difference(
    fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, h: torch.Tensor
) -> torch.Tensor:
    with torch.enable_grad():
        return ((fn(x + h) - fn(x - h)) / (2 * h)).detach()


# RAdam takes adaptive steps from its sixth on.
@pytest.mark.parametrize('silent_steps', [0, 1, 8])
@pytest.mark.parametrize('case', ELEMENTWISE, ids=str)
def test_first_derivative_equals_finite_differences(case: OptimizerCase, silent_steps: int) -> None:
    update = first_update_after(case, silent_steps)
    x = torch.tensor(GRADIENTS, dtype=torch.float64, requires_grad=True)
    h = torch.where(x == 0, EPS * 1e-7, x.abs() * 1e-4).detach()
    expected = central_difference(update, x.detach(), h)
    noise = 1e-15 * update(x).detach().abs() / h
    difference = (diagonal_derivative(update, x) - expected).abs()
    fits = difference <= 1e-6 * expected.abs() + noise
    jumps = x == 0 if not case.entry.smooth else torch.zeros_like(fits)
    assert (fits | jumps).all(), (difference, expected)


@pytest.mark.parametrize('silent_steps', [0, 8])
@pytest.mark.parametrize('case', ELEMENTWISE, ids=str)
def test_second_derivative_equals_finite_differences(
    case: OptimizerCase, silent_steps: int
) -> None:
    update = first_update_after(case, silent_steps)
    x = torch.tensor(GRADIENTS, dtype=torch.float64, requires_grad=True)
    first = diagonal_derivative(update, x, create_graph=True)
    second = torch.zeros_like(x)
    if first.requires_grad:  # not where the update is linear
        (second,) = torch.autograd.grad(first.sum(), x)
    assert second.isfinite().all()

    tiny = x.detach()[1:].abs()
    h = torch.cat([torch.ones(1, dtype=x.dtype), tiny * 1e-4])
    expected = central_difference(
        lambda y: diagonal_derivative(update, y.requires_grad_()), x.detach(), h
    )
    # The first derivative is a difference of terms of the size of update / x.
    noise = 1e-14 * (update(x) / x).detach().abs() / h
    difference = (second - expected).abs()
    assert (difference <= 1e-5 * expected.abs() + noise)[1:].all(), (difference, expected)


@pytest.mark.parametrize(
    ('dtype', 'order'), [(torch.float32, 2), (torch.float64, 3)], ids=['float32', 'float64']
)
@pytest.mark.parametrize('silent_steps', [0, 8])
@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_higher_derivatives_are_finite(
    case: OptimizerCase, silent_steps: int, dtype: torch.dtype, order: int
) -> None:
    update = first_update_after(case, silent_steps, dtype)
    x = torch.tensor(GRADIENTS, dtype=dtype, requires_grad=True)
    value = update(x).sum()
    for _ in range(order):
        (derivative,) = torch.autograd.grad(value, x, create_graph=True)
        assert derivative.isfinite().all(), derivative
        # The second summand keeps the next derivative defined where the update is linear.
        value = (derivative * torch.linspace(1, 2, len(x), dtype=dtype)).sum() + 0 * x.sum()


@pytest.mark.parametrize('transform', [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize('case', [c for c in MAIN_CASES if c.entry.elementwise], ids=str)
def test_forward_and_reverse_agree_at_zero(
    case: OptimizerCase, transform: Callable[..., Any]
) -> None:
    update = first_update_after(case, 0)
    x = torch.tensor(GRADIENTS, dtype=torch.float64, requires_grad=True)
    jacobian = transform(update)(x.detach())
    torch.testing.assert_close(jacobian, diagonal_derivative(update, x).diag())
    assert torch.func.jacfwd(transform(update))(x.detach()).isfinite().all()


def test_derivative_of_adams_first_step_at_zero() -> None:
    update = torchopt.adam(lr=0.1, eps=EPS)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(
        update.update(x, update.init(x.detach()), inplace=False)[0], x
    )
    torch.testing.assert_close(derivative.item(), -0.1 / EPS, rtol=1e-12, atol=0)


@pytest.mark.parametrize('name', ['first_moment', 'second_moment'])
def test_adam_with_a_moment_of_zero(name: str) -> None:
    """With mu = 0 and nu > 0, or the reverse, the derivative follows the formula."""
    adam = torchopt.transform.scale_by_adam(betas=(0.5, 0.5), eps=EPS)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    mu, nu = (0.0, 0.04) if name == 'first_moment' else (0.2, 0.0)
    state = adam.init(x.detach())._replace(
        mu=torch.full_like(x, mu).detach(), nu=torch.full_like(x, nu).detach()
    )
    (derivative,) = torch.autograd.grad(adam.update(x, state, inplace=False)[0], x)
    # u = (mu + g) / (sqrt(nu + g^2) + eps) for one step with betas of 1/2.
    torch.testing.assert_close(derivative.item(), 1 / (nu**0.5 + EPS), rtol=1e-12, atol=0)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_flushed_denormals_change_nothing(case: OptimizerCase) -> None:
    """Hardware that rounds denormal numbers to 0 must not bring the NaN back."""
    torch.set_flush_denormal(True)  # has no effect on processors that cannot do it
    try:
        update = first_update_after(case, 0, torch.float32)
        x = torch.tensor(GRADIENTS, requires_grad=True)
        assert diagonal_derivative(update, x).isfinite().all()
    finally:
        torch.set_flush_denormal(False)
