"""Dtypes stay what they are, and 16-bit parameters follow the float64 rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import sample_gradients, sample_params, state_fields
from torchopt import pytree

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def float_dtypes(tree: Any) -> set[torch.dtype]:
    return {x.dtype for x in pytree.tree_leaves(tree) if x.is_floating_point()}


def two_steps(case: OptimizerCase, optimizer: torchopt.GradientTransformation, params: Any) -> Any:
    """Updates, moments and parameters after two steps."""
    state = optimizer.init(params)
    for step in range(2):
        gradients = sample_gradients(params, step)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    fields = state_fields(state)
    moments = [tree for name, tree in fields if name not in case.entry.unlike_params]
    return updates, moments, params


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_dtype_is_kept(case: OptimizerCase, dtype: torch.dtype) -> None:
    assert float_dtypes(two_steps(case, case.make(), sample_params(dtype))) == {dtype}


@pytest.mark.parametrize('hyperdtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_tensor_hyperparameters_of_another_dtype_do_not_widen(
    case: OptimizerCase, dtype: torch.dtype, hyperdtype: torch.dtype
) -> None:
    optimizer = case.make(**case.tensor_options(hyperdtype))
    assert float_dtypes(two_steps(case, optimizer, sample_params(dtype))) == {dtype}


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_schedules_do_not_widen(case: OptimizerCase, dtype: torch.dtype) -> None:
    optimizer = case.make(lr=torchopt.linear_schedule(0.1, 0.0, 10))
    assert float_dtypes(two_steps(case, optimizer, sample_params(dtype))) == {dtype}


def test_clipping_does_not_widen_beside_float64() -> None:
    gradients = [torch.tensor(3.0), torch.tensor([4.0], dtype=torch.float64)]
    clipped, _ = torchopt.clip_grad_norm(1.0).update(
        gradients, torchopt.base.EmptyState(), inplace=False
    )
    assert [g.dtype for g in clipped] == [torch.float32, torch.float64]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_16_bit_updates_agree_with_float64(case: OptimizerCase, dtype: torch.dtype) -> None:
    """One step from the same state, to a few roundings at the resolution of 16 bits."""
    params = {'w': torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=dtype)}
    gradients = {'w': torch.tensor([0.0, 0.5, -0.125, 2.0], dtype=dtype)}
    wide_params, wide_gradients = pytree.tree_map(torch.Tensor.double, (params, gradients))
    optimizer = case.make()
    update, _ = optimizer.update(gradients, optimizer.init(params), params=params, inplace=False)
    expected, _ = optimizer.update(
        wide_gradients, optimizer.init(wide_params), params=wide_params, inplace=False
    )
    resolution = torch.finfo(dtype).eps
    torch.testing.assert_close(
        update['w'].double(), expected['w'], rtol=4 * resolution, atol=torch.finfo(dtype).tiny
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_16_bit_zero_gradients_give_no_nan(case: OptimizerCase, dtype: torch.dtype) -> None:
    """Eps underflows to 0 in 16 bits, where 0 / 0 would follow."""
    params = torch.zeros(3, dtype=dtype)
    optimizer = case.make()
    state = optimizer.init(params)
    gradient = torch.zeros(3, dtype=dtype, requires_grad=True)
    for _ in range(8):
        update, state = optimizer.update(gradient, state, params=params, inplace=False)
        assert torch.equal(update, torch.zeros_like(update))
    (derivative,) = torch.autograd.grad(update.sum(), gradient)
    assert not derivative.isnan().any()
