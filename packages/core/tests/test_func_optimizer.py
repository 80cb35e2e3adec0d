"""FuncOptimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import MAIN_CASES, OptimizerCase
from support.trees import assert_trees_close, assert_trees_equal, copied, requiring_grad
from support.unrolled import META, START, inner_loss


def loss_of(params: Any) -> torch.Tensor:
    return inner_loss(META, params)


def test_the_state_is_made_at_the_first_step() -> None:
    optimizer = torchopt.FuncOptimizer(torchopt.adam())
    params = requiring_grad(START)
    assert optimizer.state_dict() is None
    params = optimizer.step(loss_of(params), params)
    assert optimizer.state_dict() is not None
    assert all(leaf.requires_grad and not leaf.is_leaf for leaf in params.values())


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_inplace_equals_functional(case: OptimizerCase) -> None:
    moving, fixed = requiring_grad(START), requiring_grad(START)
    functional, inplace = (torchopt.FuncOptimizer(case.make()) for _ in range(2))
    for _ in range(3):
        moving = functional.step(loss_of(moving), moving)
        returned = inplace.step(loss_of(fixed), fixed, inplace=True)
        assert all(returned[name] is fixed[name] and fixed[name].is_leaf for name in fixed)
    assert_trees_close(fixed, moving)


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_inplace_writes_into_params_alone(case: OptimizerCase) -> None:
    """A gradient of a sum is an expanded number, and an extracted state belongs to the caller."""
    params = [torch.tensor([1.0, -2.0], requires_grad=True)]
    optimizer = torchopt.FuncOptimizer(case.make())
    optimizer.step(params[0].sum(), params, inplace=True)
    state = optimizer.state_dict()
    before = copied(state)
    optimizer.step(params[0].sum(), params, inplace=True)
    assert_trees_equal(state, before)


@pytest.mark.parametrize('default', [True, False])
def test_inplace_may_be_a_default_or_given_by_position(default: bool) -> None:
    impl = torchopt.sgd(lr=0.5)
    optimizer = torchopt.FuncOptimizer(impl, inplace=default)
    assert optimizer.impl is impl
    assert optimizer.inplace is default
    assert repr(optimizer) == f'FuncOptimizer(sgd(lr=0.5){", inplace=True" if default else ""})'
    for choice in (None, True, False):
        w = torch.ones(2, requires_grad=True)
        new = optimizer.step(w.sum(), w, choice)
        torch.testing.assert_close(new, torch.full((2,), 0.5))
        assert (new is w) == (default if choice is None else choice)
        assert new.is_leaf == (new is w)


def test_first_order_treats_gradients_as_constants() -> None:
    x, phi = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0))
    optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=0.5))
    new = optimizer.step(phi * x**2, x, first_order=True)
    assert new.item() == 2.0 - 0.5 * 12.0
    gradient, through = torch.autograd.grad(new, (x, phi), allow_unused=True)
    assert gradient.item() == 1.0
    assert through is None


def test_frozen_and_unused_parameters_stay() -> None:
    params = {
        'used': torch.ones(2, requires_grad=True),
        'unused': torch.ones(2, requires_grad=True),
        'frozen': torch.ones(2),
        'absent': None,
    }
    optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=0.1))
    new = optimizer.step((params['used'] * params['frozen']).sum(), params)
    assert new['unused'] is params['unused']
    assert new['frozen'] is params['frozen']
    assert new['absent'] is None
    torch.testing.assert_close(new['used'], torch.full((2,), 0.9))
    assert optimizer.state_dict()[0].steps.tolist() == [0, 0, 0, 1]  # in the order of the keys


def test_a_tensor_that_occurs_twice() -> None:
    w = torch.ones(1, requires_grad=True)
    new = torchopt.FuncOptimizer(torchopt.sgd(lr=0.1)).step((w * 3).sum(), [w, w])
    torch.testing.assert_close(new[0], torch.tensor([0.7]))
    torch.testing.assert_close(new[1], torch.tensor([0.7]))


def test_state_is_saved_and_loaded() -> None:
    params = requiring_grad(START)
    optimizer = torchopt.FuncOptimizer(torchopt.adam(lr=0.1))
    params = optimizer.step(loss_of(params), params)
    state = optimizer.state_dict()
    expected = optimizer.step(loss_of(params), params)
    assert_trees_equal(state[0].steps, torch.ones(2, dtype=torch.int64))

    optimizer.load_state_dict(state)
    assert_trees_equal(optimizer.step(loss_of(params), params), expected)
    fresh = torchopt.FuncOptimizer(torchopt.adam(lr=0.1))
    fresh.load_state_dict(state)
    assert_trees_equal(fresh.step(loss_of(params), params), expected)
    fresh.load_state_dict(None)
    assert fresh.state_dict() is None


def test_a_state_that_does_not_fit_is_refused() -> None:
    params = requiring_grad(START)
    optimizer = torchopt.FuncOptimizer(torchopt.adam())
    optimizer.step(loss_of(params), params)
    before = optimizer.state_dict()
    with pytest.raises(
        ValueError,
        match=r'^state differs in structure: it lacks 0\.mu\.b, 0\.mu\.w, .+ and \d more$',
    ):
        optimizer.load_state_dict(torchopt.sgd().init(params))
    with pytest.raises(ValueError, match=r'it has 0\.mu\.other, .+ which nothing expects$'):
        optimizer.load_state_dict(torchopt.adam().init({**params, 'other': torch.ones(1)}))
    with pytest.raises(ValueError, match='structure: expected PyTreeSpec'):
        optimizer.load_state_dict([*before])  # a list of the same leaves
    smaller = {name: torch.zeros(1, dtype=torch.float64) for name in params}
    with pytest.raises(ValueError, match=r'^state\[0\]\.mu\[\'\w\'\] does not fit'):
        optimizer.load_state_dict(torchopt.adam().init(smaller))
    assert optimizer.state_dict() is before


def test_takes_a_transformation() -> None:
    with pytest.raises(TypeError, match='impl must be a gradient transformation such as'):
        torchopt.FuncOptimizer(torchopt.adam)


def bad_losses(params: Any) -> dict[str, tuple[Any, type[Exception], str]]:
    loss = loss_of(params)
    return {
        'number': (loss.item(), TypeError, '^loss must be a tensor, got float'),
        'vector': (loss.expand(2), ValueError, r'^loss must be a scalar, got shape \(2,\)'),
        'constant': (loss.detach(), ValueError, '^the loss does not depend on any parameter'),
        'other': (
            torch.ones((), requires_grad=True) * 2,
            ValueError,
            '^the loss does not depend on any parameter',
        ),
    }


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('kind', bad_losses(requiring_grad(START)))
def test_a_bad_loss_changes_nothing(kind: str, inplace: bool) -> None:
    params = requiring_grad(START)
    optimizer = torchopt.FuncOptimizer(torchopt.adam())
    optimizer.step(loss_of(params), params)
    before, state = copied(params), optimizer.state_dict()
    loss, error, message = bad_losses(params)[kind]
    with pytest.raises(error, match=message):
        optimizer.step(loss, params, inplace=inplace)
    assert_trees_equal(params, before)
    assert optimizer.state_dict() is state


def test_a_step_needs_grad_mode() -> None:
    params = requiring_grad(START)
    loss = loss_of(params)
    optimizer = torchopt.FuncOptimizer(torchopt.adam())
    with torch.no_grad(), pytest.raises(RuntimeError, match=r'leave torch.no_grad\(\)'):
        optimizer.step(loss, params)
    assert optimizer.state_dict() is None


@pytest.mark.compile
def test_a_step_refuses_to_be_compiled() -> None:
    params = requiring_grad(START)
    optimizer = torchopt.FuncOptimizer(torchopt.sgd())
    torch.compiler.reset()
    compiled = torch.compile(
        lambda tree: optimizer.step(loss_of(tree), tree), fullgraph=True, backend='eager'
    )
    with pytest.raises(Exception, match='a step on a loss cannot be compiled'):
        compiled(params)


@pytest.mark.parametrize('bad', [1.0, torch.ones(2, dtype=torch.int64)], ids=str)
def test_leaves_must_be_floating_point_tensors(bad: Any) -> None:
    params = {'w': torch.ones(2, requires_grad=True), 'x': bad}
    optimizer = torchopt.FuncOptimizer(torchopt.sgd())
    with pytest.raises(TypeError, match=r"^params\['x'\] must be a floating-point tensor or None"):
        optimizer.step(params['w'].sum(), params)
    assert optimizer.state_dict() is None


def test_params_of_another_structure_than_the_state() -> None:
    params = requiring_grad(START)
    optimizer = torchopt.FuncOptimizer(torchopt.adam())
    optimizer.step(loss_of(params), params)
    state = optimizer.state_dict()
    other = {**params, 'more': torch.ones(1, requires_grad=True)}
    with pytest.raises(ValueError, match='updates have 3 leaves, but the state was made for 2'):
        optimizer.step(loss_of(other) + other['more'].sum(), other)
    assert optimizer.state_dict() is state
