"""Steps under vmap, jvp, vjp, jacrev and hessian."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import MAIN_CASES, PATH_CASES, OptimizerCase
from support.trees import assert_trees_close, generator
from support.unrolled import META, START, functional_meta_loss
from torchopt import pytree

TASKS = 3


def stacked(tree: Any) -> Any:
    """One tree per task, along a new first dimension."""
    source = generator(3)
    return pytree.tree_map(
        lambda x: x + 0.3 * torch.randn(TASKS, *x.shape, generator=source, dtype=x.dtype), tree
    )


def task(tree: Any, index: int) -> Any:
    return pytree.tree_map(lambda x: x[index], tree)


def stack(trees: list[Any]) -> Any:
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_vmap_over_tasks_equals_a_loop(case: OptimizerCase) -> None:
    phis, starts = stacked(META), stacked(START)

    def meta_gradient(phi: torch.Tensor, start: Any) -> Any:
        return torch.func.grad(partial(functional_meta_loss, case.make()), argnums=(0, 1))(
            phi, start
        )

    batched = torch.vmap(meta_gradient)(phis, starts)
    loop = stack([meta_gradient(phis[i], task(starts, i)) for i in range(TASKS)])
    assert_trees_close(batched, loop)


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_separate_vmaps_of_init_and_update(case: OptimizerCase) -> None:
    """The batched state is passed from call to call, as in an ensemble."""
    optimizer, params = case.make(moment_requires_grad=False), stacked(START)
    state = torch.vmap(optimizer.init)(params)
    assert_trees_close(state, stack([optimizer.init(task(params, i)) for i in range(TASKS)]))

    def step(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False), state

    gradients = stacked(START)
    for _ in range(2):
        expected = [step(task(gradients, i), task(state, i), task(params, i)) for i in range(TASKS)]
        params, state = torch.vmap(step)(gradients, state, params)
        assert_trees_close((params, state), stack(expected))


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_vmap_over_hyperparameters_equals_a_loop(case: OptimizerCase) -> None:
    leaves, structure = pytree.tree_flatten(case.tensor_options())
    factors = torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64)
    rows = [leaf.detach() * factors for leaf in leaves]

    def meta_loss(*options: torch.Tensor) -> torch.Tensor:
        optimizer = case.make(**pytree.tree_unflatten(structure, options))
        return functional_meta_loss(optimizer, META, START)

    batched = torch.vmap(meta_loss)(*rows)
    loop = torch.stack([meta_loss(*(row[i] for row in rows)) for i in range(TASKS)])
    torch.testing.assert_close(batched, loop, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_jacobians_and_hessian_agree(case: OptimizerCase) -> None:
    def step(gradient: torch.Tensor) -> torch.Tensor:
        params = torch.tensor([0.5, -0.3], dtype=torch.float64)
        optimizer = case.make()
        updates, _ = optimizer.update(
            gradient, optimizer.init(params), params=params, inplace=False
        )
        return updates

    g = torch.tensor([0.4, -0.9], dtype=torch.float64)
    reverse = torch.func.jacrev(step)(g)
    torch.testing.assert_close(reverse, torch.func.jacfwd(step)(g), rtol=1e-12, atol=1e-12)
    tangent = torch.tensor([0.3, 0.7], dtype=torch.float64)
    value, directional = torch.func.jvp(step, (g,), (tangent,))
    torch.testing.assert_close(value, step(g), rtol=1e-12, atol=0)
    torch.testing.assert_close(directional, reverse @ tangent, rtol=1e-12, atol=1e-12)
    _, pull_back = torch.func.vjp(step, g)
    torch.testing.assert_close(pull_back(tangent)[0], tangent @ reverse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_hessian_of_an_unroll(case: OptimizerCase) -> None:
    def meta_loss(phi: torch.Tensor) -> torch.Tensor:
        return functional_meta_loss(case.make(), phi, START)

    forward_over_reverse = torch.func.hessian(meta_loss)(META)
    reverse_over_reverse = torch.func.jacrev(torch.func.jacrev(meta_loss))(META)
    torch.testing.assert_close(forward_over_reverse, reverse_over_reverse, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward_over_reverse, forward_over_reverse.T, rtol=1e-9, atol=1e-9)
