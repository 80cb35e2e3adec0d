"""Rules that jump: on the jump, and on a bound, the kernel does what core's rule does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.trees import assert_trees_close, requiring_grad, sample_params
from torchopt import pytree
from torchopt.rules.lion import ScaleByLionState
from torchopt.rules.rprop import ScaleByRpropState

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def in_every_combination(*values: tuple[float, ...], like: torch.Tensor) -> list[torch.Tensor]:
    """One tensor for each argument, which together hold every combination."""
    return [like.new_tensor(column) for column in zip(*itertools.product(*values))]


def stepped(
    optimizer: torchopt.GradientTransformation,
    state_class: Callable[..., Any],
    gradient: torch.Tensor,
    moments: list[torch.Tensor],
) -> Any:
    """The update, the new moments, and the derivatives by gradient and old moments."""
    inputs = [x.clone().requires_grad_() for x in (gradient, *moments)]
    state = pytree.tree_map(
        lambda part: state_class(*([x] for x in inputs[1:])) if type(part) is state_class else part,
        optimizer.init([gradient]),
        is_leaf=lambda part: type(part) is state_class,
    )
    outputs = pytree.tree_leaves(optimizer.update(inputs[:1], state, inplace=False))
    # Cotangents of both signs, none of which hides another.
    cotangents = [torch.linspace(-1 - i, 2, x.numel()).to(x) for i, x in enumerate(outputs)]
    return outputs, torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True)


@pytest.mark.parametrize('dtype', DTYPES)
def test_lion(dtype: torch.dtype, kernels: str, launches: list[str]) -> None:
    like = torch.empty(0, dtype=dtype, device=kernels)
    gradient, mu = in_every_combination((1.0, -1.0, 0.0, -0.0), (-1.0, 1.0, 0.0, -0.0), like=like)
    expected, actual = (
        stepped(
            # The average is exactly 0 where the two cancel.
            torchopt.lion(1.0, betas=(0.5, 0.75), use_accelerated_op=accelerated),
            ScaleByLionState,
            gradient,
            [mu],
        )
        for accelerated in (False, True)
    )
    assert launches == ['lion', 'lion_backward']
    assert (expected[0][0] == 0).sum() == 6
    assert_trees_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', DTYPES)
def test_rprop(dtype: torch.dtype, kernels: str, launches: list[str]) -> None:
    like = torch.empty(0, dtype=dtype, device=kernels)
    gradient, last, size = in_every_combination(
        (1.0, -2.0, 0.0, -0.0, 1e-30, float('nan')),
        (1.0, -1.0, 0.0, 1e-30),  # the product of two tiny ones is 0 in float32
        (0.125, 0.25, 0.5, 0.75, 1.0, 2.0),  # under, on, between and over the bounds
        like=like,
    )
    expected, actual = (
        stepped(
            torchopt.rprop(etas=(0.5, 2.0), step_sizes=(0.25, 1.0), use_accelerated_op=accelerated),
            ScaleByRpropState,
            gradient,
            [last, size],
        )
        for accelerated in (False, True)
    )
    assert launches == ['rprop', 'rprop_backward']
    by_size = expected[1][2]
    assert (by_size == 0).any() and (by_size != 0).any()
    for mine, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def test_rprop_takes_a_tree_of_rates(device: str, launches: list[str]) -> None:
    """A rate is the size of the first step, and no factor of later ones."""
    results = []
    for accelerated in (False, True):
        params = sample_params(device=device)
        rates = requiring_grad(pytree.tree_map(lambda p: torch.full_like(p, 0.1), params))
        optimizer = torchopt.rprop(rates, use_accelerated_op=accelerated)
        state = optimizer.init(params)
        for _ in range(3):
            gradients = pytree.tree_map(torch.cos, params)
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        leaves = pytree.tree_leaves(params)
        loss = torch.stack([x.square().sum() for x in leaves]).sum()
        results.append((leaves, torch.autograd.grad(loss, pytree.tree_leaves(rates))))
        assert bool(launches) == accelerated
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)
    assert any(x.any() for x in results[0][1])


def test_rprop_forgets_a_rate_that_is_set_later(device: str, launches: list[str]) -> None:
    params = [torch.tensor([1.0, -2.0], device=device).requires_grad_() for _ in range(2)]
    optimizers = (
        torchopt.Rprop(params[:1], lr=0.1, use_accelerated_op=True),
        torch.optim.Rprop(params[1:], lr=0.1, foreach=False),
    )
    for lr in (0.1, 5.0, 0.0):
        for param, optimizer in zip(params, optimizers):
            optimizer.param_groups[0]['lr'] = lr
            param.grad = param.detach().clone()
            optimizer.step()
    assert launches == ['rprop'] * 3
    assert_trees_close(*params)
