"""Fused steps against core's rule: values, states, first and second derivatives, in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import FUSED_CASES as CASES
from support.optimizer_cases import FUSED_MAIN_CASES as MAIN_CASES
from support.optimizer_cases import OptimizerCase
from support.trees import (
    assert_trees_close,
    requiring_grad,
    sample_gradients,
    sample_params,
)
from torchopt import pytree

STEPS = 4


def unrolled(
    optimizer: torchopt.GradientTransformation, params: Any, *, inplace: bool = False
) -> tuple[Any, Any]:
    """Take a few steps; gradients depend on the parameters, and some are None."""
    state = optimizer.init(params)
    for step in range(STEPS):
        gradients = pytree.tree_map(
            lambda g, p: None if g is None else g + p.sin(),
            sample_gradients(params, step, sparse=True),
            params,
            none_is_leaf=True,
        )
        gradients = pytree.tree_map(lambda g: g.detach(), gradients) if inplace else gradients
        updates, state = optimizer.update(gradients, state, params=params, inplace=inplace)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params, state


def derivatives(case: OptimizerCase, device: str, **overrides: Any) -> list[Any]:
    params = requiring_grad(sample_params(device=device))
    result = unrolled(case.make(**overrides), params)
    inputs = pytree.tree_leaves(params)
    if isinstance(overrides.get('lr'), torch.Tensor):
        inputs.append(overrides['lr'])
    outputs = [x for x in pytree.tree_leaves(result) if x.requires_grad]
    first = torch.autograd.grad(sum(x.square().sum() for x in outputs), inputs, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
    return [result, first, second]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_derivatives(case: OptimizerCase, device: str, launches: list[str]) -> None:
    expected = derivatives(case, device)
    assert not launches
    actual = derivatives(case, device, use_accelerated_op=True)
    assert bool(launches) == case.has_kernel
    assert any(name.endswith('_backward') for name in launches) == case.has_kernel
    assert_trees_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_learnable_learning_rate(
    case: OptimizerCase, dtype: torch.dtype, device: str, launches: list[str]
) -> None:
    results = []
    for accelerated in (False, True):
        lr = torch.tensor(0.03, dtype=dtype, device=device, requires_grad=True)
        results.append(derivatives(case, device, lr=lr, use_accelerated_op=accelerated))
    assert bool(launches) == case.has_kernel
    # The learning rate's gradient is rounded to its own dtype.
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    assert_trees_close(*results, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_schedule(case: OptimizerCase, device: str, launches: list[str]) -> None:
    start = torch.tensor(0.1, dtype=torch.float64, device=device, requires_grad=True)
    schedule = torchopt.schedule.linear_schedule(start, 0.01, 3)
    results = []
    for accelerated in (False, True):
        params, _ = unrolled(
            case.make(lr=schedule, use_accelerated_op=accelerated), sample_params(device=device)
        )
        loss = sum(x.square().sum() for x in pytree.tree_leaves(params))
        results.append((params, torch.autograd.grad(loss, start)))
    assert bool(launches) == case.has_kernel
    assert_trees_close(*results, rtol=1e-12, atol=1e-12)


def test_schedule_of_numbers(device: str) -> None:
    results = [
        unrolled(
            torchopt.adam(lambda count: 0.5, use_accelerated_op=accelerated),
            sample_params(device=device),
        )
        for accelerated in (False, True)
    ]
    assert_trees_close(*results)


@pytest.mark.parametrize('inplace', [True, False])
def test_schedule_of_vectors_raises_as_the_rule_does(inplace: bool) -> None:
    optimizer = torchopt.adam(lambda count: torch.ones(1), use_accelerated_op=True)
    gradients = [torch.ones(3)]
    with pytest.raises(ValueError, match='0-dim'):
        optimizer.update(gradients, optimizer.init(gradients), inplace=inplace)
    assert torch.equal(gradients[0], torch.ones(3))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_inplace(case: OptimizerCase, device: str, launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        optimizer = case.make(use_accelerated_op=accelerated)
        results.append(unrolled(optimizer, sample_params(device=device), inplace=True))
    assert bool(launches) == case.has_kernel
    assert_trees_close(*results)


def test_inplace_writes_where_it_says() -> None:
    params = {'a': torch.ones(5), 'b': torch.ones(2, 3)}
    gradients = {'a': torch.full((5,), 2.0), 'b': None}
    optimizer = torchopt.adam(0.1, use_accelerated_op=True)
    state = optimizer.init(params)
    versions = gradients['a']._version, state[0].mu['a']._version
    updates, new = optimizer.update(gradients, state, params=params)
    assert updates['a'] is gradients['a'] and updates['b'] is None
    assert all(
        x is y for x, y in zip(pytree.tree_leaves(new), pytree.tree_leaves(state), strict=True)
    )
    torch.testing.assert_close(updates['a'], torch.full((5,), -0.1))
    torch.testing.assert_close(state[0].mu['a'], torch.full((5,), 0.2))
    assert torch.equal(state[0].mu['b'], torch.zeros(2, 3))
    assert state[0].steps.tolist() == [1, 0]
    assert gradients['a']._version > versions[0] and state[0].mu['a']._version > versions[1]


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize('scale', [1.0, 1e-3])
def test_precision(case: OptimizerCase, dtype: torch.dtype, scale: float, kernels: str) -> None:
    """Compare values and derivatives of one step with the same step in float64."""
    resolution = torch.finfo(dtype).eps
    params = sample_params(dtype, kernels)
    state = case.make().init(params)
    state = pytree.tree_map(lambda s: (s + 0.5).detach() if s.dtype == dtype else s, state)
    gradients = pytree.tree_map(lambda g: g * scale, sample_gradients(params, 0))

    def step(accelerated: bool, wide: bool) -> list[torch.Tensor]:
        def own(tree: Any) -> Any:
            return pytree.tree_map(own_tensor, tree, none_is_leaf=True)

        def own_tensor(x: torch.Tensor | None) -> torch.Tensor | None:
            if x is None:
                return None
            # Kernels take the numbers of leaves, which are in float64, as constants.
            differentiated = x.dtype == dtype
            return (_widen(x) if wide else x.clone()).requires_grad_(differentiated)

        p, s, g = own(params), own(state), own(gradients)
        optimizer = case.make(use_accelerated_op=accelerated)
        result = optimizer.update(g, s, params=p, inplace=False)
        outputs = [x for x in pytree.tree_leaves(result) if x.requires_grad]
        cotangents = [x.detach().to(dtype).to(x.dtype).cos() for x in outputs]
        inputs = [x for x in pytree.tree_leaves((g, s)) if x.requires_grad]
        grads = torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True)
        return [x.to(torch.float64) for x in (*outputs, *grads)]

    for actual, expected in zip(step(True, False), step(False, True), strict=True):
        size = 1 if expected.numel() == 0 else max(1e-3, expected.abs().max().item())
        torch.testing.assert_close(
            actual, expected, rtol=4 * resolution, atol=4 * resolution * size
        )


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor
