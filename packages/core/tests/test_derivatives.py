"""First and second derivatives of a step with respect to all inputs, by gradcheck.

Derivatives near zero, where a fixed finite-difference step is useless, are in
``test_derivatives_near_zero.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torchopt
from support.optimizer_cases import MAIN_CASES, PATH_CASES, OptimizerCase, own
from support.trees import generator, requiring_grad
from torchopt import pytree

FIRST_MOMENTS = {'mu', 'trace', 'momentum', 'delta', 'grad', 'average'}
# The finite-difference step, 1e-6, must be small compared with an eps under a root and 1 - beta.
ROUND_VALUES = {
    'eps_root': 1e-2,
    'rho': 0.8,
    'alpha': 0.8,
    'betas': (0.7, 0.8),
    'adan.betas': (0.7, 0.8, 0.6),
}

check_gradients = functools.partial(
    gradcheck,
    check_forward_ad=True,
    check_batched_grad=True,
    check_batched_forward_grad=True,
    fast_mode=False,
)
check_second_gradients = functools.partial(
    gradgradcheck, check_batched_grad=True, check_fwd_over_rev=True, check_rev_over_rev=True
)


def inputs_of(case: OptimizerCase) -> tuple[Any, Any]:
    """Parameters and gradients, one of these exactly 0, unless the update may jump there."""
    return params_and_gradients(0.0 if case.entry.smooth else 0.9)


def params_and_gradients(zero: float) -> tuple[Any, Any]:
    """Three entries; the value in the place of one of the gradients is given.

    There is only one tensor, because the checks take time for every pair of tensors.
    """
    params = {'w': torch.tensor([[0.7], [-0.4], [0.3]], dtype=torch.float64)}
    gradients = {'w': torch.tensor([[0.5], [zero], [-0.8]], dtype=torch.float64)}
    return requiring_grad(params), requiring_grad(gradients)


def round_values(case: OptimizerCase) -> dict[str, Any]:
    names = [name for name in ROUND_VALUES if case.has(name)]
    return {**{name: own(ROUND_VALUES, case.entry, name) for name in names}, **case.eps(1e-2)}


def state_in_training(
    case: OptimizerCase, optimizer: torchopt.GradientTransformation, params: Any
) -> Any:
    """A state after some steps with every moment away from its singular point.

    Second moments are positive; one entry of each first moment is exactly 0, unless the update may
    jump there. Leaves that are not moments of a parameter keep their values.
    """
    state = optimizer.init(params)
    for _ in range(8):
        _, state = optimizer.update(params, state, params=params, inplace=False)
    paths, leaves, structure = pytree.tree_flatten_with_path(state, none_is_leaf=True)
    source = generator(7)
    moved = []
    for path, leaf in zip(paths, leaves):
        name = next((key for key in path if isinstance(key, str)), None)
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        if floating and name not in case.entry.unlike_params:
            leaf = 0.3 + 0.2 * torch.rand(leaf.shape, generator=source, dtype=leaf.dtype)
            if name in FIRST_MOMENTS:
                leaf = leaf - 0.2
                leaf.view(-1)[0] *= not case.entry.smooth
        moved.append(leaf)
    return pytree.tree_unflatten(structure, moved)


def step_as_function(
    make: Callable[..., torchopt.GradientTransformation], *arguments: Any
) -> tuple[Callable[..., tuple[torch.Tensor, ...]], list[torch.Tensor]]:
    """The step as a function of the tensors in (gradients, params, state, hyperparameters)."""
    leaves, structure = pytree.tree_flatten(arguments, none_is_leaf=True)

    def varies(leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()

    def step(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(inputs)
        gradients, params, state, options = pytree.tree_unflatten(
            structure, [next(given) if varies(leaf) else leaf for leaf in leaves]
        )
        updates, state = make(**options).update(gradients, state, params=params, inplace=False)
        results = pytree.tree_leaves(
            (torchopt.apply_updates(params, updates, inplace=False), state)
        )
        return tuple(x for x in results if x.is_floating_point())

    return step, [leaf for leaf in leaves if varies(leaf)]


@pytest.mark.slow
@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_step_wrt_gradients_params_and_state(case: OptimizerCase) -> None:
    params, gradients = inputs_of(case)
    optimizer = case.make(**round_values(case))
    state = requiring_grad(state_in_training(case, optimizer, params))
    step, inputs = step_as_function(
        functools.partial(case.make, **round_values(case)), gradients, params, state, {}
    )
    assert check_gradients(step, inputs)
    assert check_second_gradients(step, inputs)


@pytest.mark.slow
# A tensor takes the place of every number, so that options which are numbers change nothing.
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_step_wrt_hyperparameters(case: OptimizerCase) -> None:
    params, gradients = inputs_of(case)
    options = case.tensor_options()
    for name, value in round_values(case).items():
        options[name] = pytree.tree_map(
            lambda number: torch.tensor(number, dtype=torch.float64, requires_grad=True), value
        )
    optimizer = case.make(**options)
    state = state_in_training(case, optimizer, params)
    # The state is a constant here: its tensors are not among the inputs.
    constants = pytree.tree_map(lambda x: x.detach(), state)
    step, inputs = step_as_function(
        lambda **options: _with_state(case.make(**options), constants),
        gradients,
        params,
        (),
        options,
    )
    assert check_gradients(step, inputs)
    assert check_second_gradients(step, inputs)


def _with_state(
    optimizer: torchopt.GradientTransformation, state: Any
) -> torchopt.GradientTransformation:
    def update(updates: Any, _: Any, **keywords: Any) -> Any:
        return optimizer.update(updates, state, **keywords)

    return torchopt.GradientTransformation(optimizer.init, update)


@pytest.mark.parametrize('case', PATH_CASES, ids=str)
def test_first_step_wrt_gradients_and_params(case: OptimizerCase) -> None:
    params, gradients = params_and_gradients(zero=0.9)  # there is no second derivative at 0
    optimizer = case.make(**round_values(case))
    state = pytree.tree_map(lambda x: x.detach(), optimizer.init(params))
    step, inputs = step_as_function(
        lambda: _with_state(optimizer, state), gradients, params, (), {}
    )
    assert check_gradients(step, inputs)
    assert check_second_gradients(step, inputs)


@pytest.mark.parametrize('case', [case for case in MAIN_CASES if case.has('eps')], ids=str)
def test_large_eps(case: OptimizerCase) -> None:
    params, gradients = params_and_gradients(zero=0.9)  # AdaMax has a kink at 0
    make = functools.partial(case.make, **{**round_values(case), **case.eps(2.0)})
    state = requiring_grad(state_in_training(case, make(), params))
    step, inputs = step_as_function(make, gradients, params, state, {})
    assert check_gradients(step, inputs)
    assert check_second_gradients(step, inputs)
