"""States that are one number per leaf, which kernels take as constants: NAdam's and ASGD's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.trees import assert_trees_close, generator
from torchopt import pytree

# Options with which a number differs from step to step.
OPTIONS: dict[str, dict[str, Any]] = {
    'nadam': {'momentum_decay': 0.3, 'weight_decay': 0.1},
    'asgd': {'lambd': 0.1, 'alpha': 0.5, 't0': 1},
}
FIELDS = (('nadam', 'mu_product'), ('asgd', 'mu'), ('asgd', 'eta'))
GRADIENTS, PARAMS = (
    [torch.randn(shape, generator=generator(seed), dtype=torch.float64) for shape in (3, (2, 2))]
    for seed in (1, 2)
)
NUMBERS = torch.tensor([0.7, 0.8], dtype=torch.float64)
each_optimizer = pytest.mark.parametrize('name', OPTIONS)


def make(name: str, accelerated: bool, **options: Any) -> torchopt.GradientTransformation:
    factory = getattr(torchopt, name)
    return factory(**{'lr': 0.1, **OPTIONS[name], **options}, use_accelerated_op=accelerated)


def with_field(state: Any, field: str, value: torch.Tensor) -> Any:
    return tuple(s._replace(**{field: value}) if field in s._fields else s for s in state)


def loss_from(name: str, field: str, accelerated: bool) -> Callable[..., torch.Tensor]:
    """Two steps as a function of the numbers in the first state, and of the gradients' scale."""
    optimizer = make(name, accelerated)

    def loss(numbers: torch.Tensor, scale: float | torch.Tensor = 1.0) -> torch.Tensor:
        params, state = PARAMS, with_field(optimizer.init(PARAMS), field, numbers)
        for _ in range(2):
            gradients = [g * scale + p.sin() for g, p in zip(GRADIENTS, params)]
            updates, state = optimizer.update(gradients, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return torch.stack([x.pow(3).sum() for x in (*params, *pytree.tree_leaves(state))]).sum()

    return loss


@pytest.mark.parametrize(('name', 'field'), FIELDS)
def test_derivatives_by_numbers(name: str, field: str, launches: list[str]) -> None:
    found = []
    for accelerated in (False, True):
        loss = loss_from(name, field, accelerated)
        numbers = NUMBERS.clone().requires_grad_()
        plain = torch.autograd.grad(loss(numbers), numbers)
        found.append((plain, torch.func.grad(loss)(NUMBERS), torch.func.jacfwd(loss)(NUMBERS)))
    assert bool(launches) == (field == 'eta'), 'a learning rate is the only one with a derivative'
    assert_trees_close(*found)


@pytest.mark.parametrize(('name', 'field'), FIELDS)
def test_vmap_over_numbers(name: str, field: str, launches: list[str]) -> None:
    many = torch.stack([NUMBERS, NUMBERS / 2, NUMBERS / 3])
    scale = torch.tensor(1.5, dtype=torch.float64)
    found = []
    for accelerated in (False, True):
        loss = loss_from(name, field, accelerated)
        derivative = torch.func.grad(loss, argnums=1)
        found.append(torch.vmap(lambda n, derivative=derivative: derivative(n, scale))(many))
    assert launches
    assert_trees_close(*found)


@pytest.mark.parametrize(('name', 'field'), FIELDS[:2])
def test_a_derivative_that_only_a_kernel_could_see_raises(name: str, field: str) -> None:
    loss = loss_from(name, field, True)
    many = torch.stack([NUMBERS, NUMBERS / 2])
    with pytest.raises(RuntimeError, match='without use_accelerated_op'):
        torch.func.grad(lambda many: torch.vmap(loss)(many).sum())(many)


@each_optimizer
def test_absent_gradients_and_mixed_dtypes(name: str, launches: list[str]) -> None:
    kinds = (torch.float64, torch.float32, torch.float64, torch.bfloat16)
    results = []
    for accelerated in (False, True):
        params = [torch.full((3,), 0.5, dtype=kind, requires_grad=True) for kind in kinds]
        plain = getattr(torchopt, {'nadam': 'NAdam', 'asgd': 'ASGD'}[name])
        optimizer = plain(params, lr=0.1, **OPTIONS[name], use_accelerated_op=accelerated)
        functional = make(name, accelerated)
        trees = [[p.detach().clone() for p in params] for _ in range(2)]
        states = [functional.init(tree) for tree in trees]
        for step in range(5):
            gradients = [torch.ones_like(p) * (step + 1) for p in params]
            for position, param in enumerate(params):
                absent = (step + position) % 3 == 0
                param.grad = None if absent else gradients[position].clone()
            for way, inplace in enumerate((False, True)):
                given = [None if p.grad is None else p.grad.clone() for p in params]
                updates, states[way] = functional.update(
                    given, states[way], params=trees[way], inplace=inplace
                )
                trees[way] = torchopt.apply_updates(trees[way], updates, inplace=False)
            optimizer.step()
            if step == 2:
                optimizer.param_groups[0]['lr'] = 0.03
        results.append((params, optimizer.state_dict()['state'], trees, states))
    assert launches
    # A number of 16 bits may be rounded up in one and down in the other.
    for mine, theirs in zip(pytree.tree_leaves(results[1]), pytree.tree_leaves(results[0])):
        if isinstance(mine, torch.Tensor):
            tolerance = 8 * torch.finfo(mine.dtype).eps if mine.is_floating_point() else 0
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@each_optimizer
def test_numbers_that_no_kernel_takes(name: str, launches: list[str]) -> None:
    """A state in float32, as after a conversion of all of its tensors, takes the rule."""
    results = []
    for accelerated in (False, True):
        optimizer = make(name, accelerated)
        state = pytree.tree_map(
            lambda x: x.float() if x.is_floating_point() and x.shape == (2,) else x,
            optimizer.init(PARAMS),
        )
        results.append(optimizer.update(GRADIENTS, state, params=PARAMS, inplace=False))
    assert not launches
    assert_trees_close(*results)


def test_a_schedule_of_trees_takes_the_rule(launches: list[str]) -> None:
    results = []
    for accelerated in (False, True):
        optimizer = make('asgd', accelerated, lr=lambda count: [0.1, 0.2 / (1 + count)])
        state = optimizer.init(PARAMS)
        for inplace in (False, True):
            given = [x.clone() for x in GRADIENTS]
            updates, state = optimizer.update(given, state, params=PARAMS, inplace=inplace)
        results.append((updates, state))
    assert not launches
    assert_trees_close(*results)


def test_a_state_for_a_tree_of_rates_is_refused_as_by_the_rule() -> None:
    other = torchopt.asgd(lr=[torch.tensor(0.1), torch.tensor(0.2)]).init(PARAMS)
    for accelerated in (False, True):
        with pytest.raises(Exception, match=r'eta|list'):
            make('asgd', accelerated).update(GRADIENTS, other, params=PARAMS, inplace=False)
