"""gradcheck and the transforms of torch.func: the fused step must behave like core's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchopt
from support.optimizer_cases import FUSED_MAIN_CASES as MAIN_CASES
from support.optimizer_cases import OptimizerCase
from support.trees import assert_trees_close, generator
from torchopt import pytree

# The finite-difference step, 1e-6, must be small compared with an eps under a root and 1 - beta.
ROUND_VALUES = {'eps': 1e-2, 'eps_root': 1e-2, 'rho': 0.8, 'alpha': 0.8, 'betas': (0.7, 0.8, 0.6)}
FUSED = [case for case in MAIN_CASES if case.has_kernel]
SHAPES = {'w': (2, 3), 'b': (2,)}

each_case = pytest.mark.parametrize('case', FUSED, ids=str)


@pytest.fixture(autouse=True)
def everywhere(device: str) -> Iterator[None]:
    with nullcontext() if device == 'cpu' else torch.device(device):
        yield


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(shape, generator=generator(seed), dtype=torch.float64, device='cpu')
    return drawn.to(torch.get_default_device())


def params_of(seed: int = 0, batch: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    return {
        name: normal(*batch, *shape, seed=seed + i)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def unroll(case: OptimizerCase, **overrides: Any) -> Callable[..., torch.Tensor]:
    """A meta-loss: three steps on a loss with targets, then the loss."""

    def loss_of(params: Any, target: torch.Tensor) -> torch.Tensor:
        return (params['w'] @ params['w'].t().sin() @ params['b'].cos() - target).square().sum()

    fixed = case.make(lr=0.03, **overrides)

    def meta_loss(params: Any, target: torch.Tensor, lr: Any = None) -> torch.Tensor:
        optimizer = fixed if lr is None else case.make(lr=lr, **overrides)
        state = optimizer.init(params)
        for _ in range(3):
            gradients = torch.func.grad(loss_of)(params, target)
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return loss_of(params, target)

    return meta_loss


def both(case: OptimizerCase, run: Callable[[Callable[..., torch.Tensor]], Any]) -> None:
    expected = run(unroll(case))
    actual = run(unroll(case, use_accelerated_op=True))
    assert_trees_close(actual, expected, rtol=1e-12, atol=1e-12)


def round_values(case: OptimizerCase) -> dict[str, Any]:
    found = {name: value for name, value in ROUND_VALUES.items() if case.has(name)}
    if 'betas' in found:
        found['betas'] = found['betas'][: len(case.value('betas'))]
    return found


@each_case
def test_gradcheck(case: OptimizerCase, launches: list[str]) -> None:
    rule, optimizer = (
        case.make(**round_values(case), use_accelerated_op=accelerated)
        for accelerated in (False, True)
    )
    state = optimizer.init([torch.zeros(3, dtype=torch.float64)])
    leaves, structure = pytree.tree_flatten(state)
    # Not the first step, at which some derivatives are 0.
    leaves = [leaf if leaf.is_floating_point() else leaf + 1 for leaf in leaves]
    # Kernels take the numbers of leaves as constants.
    moments = [i for i, leaf in enumerate(leaves) if leaf.is_floating_point() and len(leaf) == 3]
    inputs = [normal(3, seed=1), normal(3, seed=2)]
    inputs += [normal(3, seed=3 + i).abs() + 0.5 for i in moments]

    def step(by: Any, gradient: torch.Tensor, param: torch.Tensor, *new: torch.Tensor) -> Any:
        filled = list(leaves)
        for i, tensor in zip(moments, new):
            filled[i] = tensor
        updates, after = by.update(
            [gradient], pytree.tree_unflatten(structure, filled), params=[param], inplace=False
        )
        return (*updates, *(x for x in pytree.tree_leaves(after) if x.is_floating_point()))

    variables = [tensor.clone().requires_grad_() for tensor in inputs]
    total = sum(x.sum() for x in step(rule, *variables))
    found = torch.autograd.grad(total, variables, allow_unused=True)
    used = [i for i, derivative in enumerate(found) if derivative is not None]

    def checked(*given: torch.Tensor) -> Any:
        """The step as a function of what the rule has a derivative by."""
        filled = list(inputs)
        for i, tensor in zip(used, given):
            filled[i] = tensor
        return step(optimizer, *filled)

    given = [variables[i] for i in used]
    gradcheck(checked, given, check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(checked, given, check_batched_grad=True, check_fwd_over_rev=True)
    assert launches


@each_case
def test_grad_and_vjp(case: OptimizerCase, launches: list[str]) -> None:
    both(case, lambda f: torch.func.grad(f)(params_of(), normal(2, seed=9)))
    assert any(name.endswith('_backward') for name in launches)


@each_case
def test_grad_of_learning_rate(case: OptimizerCase, launches: list[str]) -> None:
    lr = torch.tensor(0.03, dtype=torch.float64)
    both(case, lambda f: torch.func.grad(f, argnums=(0, 2))(params_of(), normal(2, seed=9), lr))
    assert any(name.endswith('_backward') for name in launches)


@each_case
def test_jvp(case: OptimizerCase) -> None:
    lr = torch.tensor(0.03, dtype=torch.float64)
    tangents = (params_of(5), normal(2, seed=7), torch.ones((), dtype=torch.float64))
    both(case, lambda f: torch.func.jvp(f, (params_of(), normal(2, seed=9), lr), tangents))


@each_case
def test_hessian_and_jacobians(case: OptimizerCase) -> None:
    target = normal(2, seed=9)
    both(case, lambda f: torch.func.hessian(f)(params_of(), target))
    both(case, lambda f: torch.func.jacrev(torch.func.grad(f))(params_of(), target))
    both(case, lambda f: torch.func.jacrev(torch.func.jacfwd(f))(params_of(), target))


@each_case
def test_vmap_equals_loop(case: OptimizerCase, launches: list[str]) -> None:
    params, targets = params_of(batch=(3,)), normal(3, 2, seed=9)
    meta_grad = torch.func.grad(unroll(case, use_accelerated_op=True))
    batched = torch.vmap(meta_grad)(params, targets)
    assert launches
    launches.clear()
    rows = [meta_grad(pytree.tree_map(lambda x, i=i: x[i], params), targets[i]) for i in range(3)]
    stacked = pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
    assert_trees_close(batched, stacked, rtol=1e-12, atol=1e-12)
    assert launches


@each_case
def test_vmap_of_any_in_dims(case: OptimizerCase) -> None:
    params = {'w': normal(2, 4, 3), 'b': normal(2)}
    for in_dims in (({'w': 1, 'b': None}, None), ({'w': 1, 'b': None}, 0), (None, 0)):
        given = params if in_dims[0] else {'w': normal(2, 3), 'b': normal(2)}
        target = normal(4, 2, seed=9) if in_dims[1] == 0 else normal(2, seed=9)
        both(case, lambda f: torch.vmap(torch.func.grad(f), in_dims)(given, target))  # noqa: B023


@each_case
def test_vmap_over_learning_rates(case: OptimizerCase, launches: list[str]) -> None:
    rates = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)
    grad = lambda f: torch.func.grad(f, argnums=(0, 2))  # noqa: E731
    both(
        case, lambda f: torch.vmap(grad(f), (None, None, 0))(params_of(), normal(2, seed=9), rates)
    )
    # A shared rate has one gradient per element of the batch.
    both(
        case,
        lambda f: torch.vmap(grad(f), (None, 0, None))(params_of(), normal(3, 2, seed=9), rates[1]),
    )
    assert any(name.endswith('_backward') for name in launches)


@each_case
def test_vmap_over_states(case: OptimizerCase) -> None:
    """States made outside have batched step counts, which may differ."""
    params = params_of(batch=(2,))

    def run(accelerated: bool) -> Any:
        optimizer = case.make(use_accelerated_op=accelerated)
        leaves, structure = pytree.tree_flatten(optimizer.init(params_of()))
        # Only leaves: torch.vmap does not accept the None that a state may hold.
        batched = [torch.stack([leaf.detach(), leaf.detach() + 1]) for leaf in leaves]

        def step(p: Any, leaves: list[torch.Tensor]) -> Any:
            state = pytree.tree_unflatten(structure, leaves)
            updates, state = optimizer.update(p, state, params=p, inplace=False)
            return updates, pytree.tree_leaves(state)

        return torch.vmap(step)(params, batched)

    assert_trees_close(run(True), run(False), rtol=1e-12, atol=1e-12)


@each_case
def test_nested_vmap(case: OptimizerCase) -> None:
    params, targets = params_of(batch=(2, 3)), normal(3, 2, 2, seed=9)
    both(case, lambda f: torch.vmap(torch.vmap(torch.func.grad(f)), (0, 1))(params, targets))


# What is traced is core's rule, whichever it is.
@pytest.mark.compile
@pytest.mark.parametrize(
    'case', [c for c in FUSED if str(c) in ('adam-defaults', 'sgd-defaults')], ids=str
)
def test_compile(case: OptimizerCase) -> None:
    torch.compiler.reset()
    meta_grad = torch.func.grad(unroll(case, use_accelerated_op=True))
    compiled = torch.compile(meta_grad, fullgraph=True, backend='aot_eager')
    params, target = params_of(), normal(2, seed=9)
    assert_trees_close(compiled(params, target), meta_grad(params, target), rtol=1e-12, atol=1e-12)


@pytest.mark.compile
def test_an_optimizer_made_inside_of_what_is_compiled() -> None:
    def meta_loss(start: torch.Tensor, rate: torch.Tensor, accelerated: bool) -> torch.Tensor:
        optimizer = torchopt.adam(rate, eps_root=1e-3, use_accelerated_op=accelerated)
        params, state = [start], optimizer.init([start])
        for _ in range(2):
            gradients = torch.func.grad(lambda p: p[0].sin().sum())(params)
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params[0].square().sum()

    torch.compiler.reset()
    derivative = torch.func.grad(meta_loss, argnums=(0, 1))
    compiled = torch.compile(derivative, fullgraph=True, backend='aot_eager')
    given = normal(3), torch.tensor(0.1, dtype=torch.float64)
    assert_trees_close(compiled(*given, True), derivative(*given, False), rtol=1e-12, atol=1e-12)


def test_vmap_inplace() -> None:
    params = params_of(batch=(3,))
    results = []
    for accelerated in (False, True):
        optimizer = torchopt.adam(0.1, use_accelerated_op=accelerated)

        def step(g: Any, optimizer: Any = optimizer) -> Any:
            return optimizer.update(g, optimizer.init(g), inplace=False)[0]

        results.append(torch.vmap(step)(params))
    assert_trees_close(*results)
