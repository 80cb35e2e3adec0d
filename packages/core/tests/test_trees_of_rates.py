"""A learning rate for each parameter: trees of numbers and tensors, fixed or from a schedule."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import torchopt
from torchopt.registry import OPTIMIZERS

FACTORIES = {entry.name: entry.factory for entry in OPTIMIZERS}
if torchopt.accelerated_op_available():
    FACTORIES |= {
        f'{entry.name}-accelerated': functools.partial(entry.factory, use_accelerated_op=True)
        for entry in OPTIMIZERS
        if entry.fused
    }
every_optimizer = pytest.mark.parametrize('factory', FACTORIES.values(), ids=FACTORIES)
RATES = {'w': 0.1, 'b': 0.5}


def run(factory: Any, lr: Any, names: tuple[str, ...] = ('w', 'b')) -> Any:
    params = {name: torch.ones(2, dtype=torch.float64) for name in names}
    optimizer = factory(lr=lr)
    state = optimizer.init(params)
    for _ in range(3):
        gradients = {name: param * torch.tensor([1.0, -2.0]) for name, param in params.items()}
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


@every_optimizer
def test_numbers_in_a_tree_are_rates_of_their_parameters(factory: Any) -> None:
    together = run(factory, RATES)
    for name, rate in RATES.items():
        alone = run(factory, rate, (name,))
        torch.testing.assert_close(together[name], alone[name], rtol=1e-12, atol=0)


@every_optimizer
def test_a_schedule_may_return_a_tree(factory: Any) -> None:
    decay = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def schedule(count: torch.Tensor) -> Any:
        return {'w': 0.1, 'b': 0.5 * decay**count}

    together = run(factory, schedule)
    alone = {
        'w': run(factory, lambda count: 0.1, ('w',))['w'],
        'b': run(factory, lambda count: 0.5 * decay**count, ('b',))['b'],
    }
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-12, atol=0)
    found = torch.autograd.grad(together['b'].sum(), decay, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(alone['b'].sum(), decay))


@every_optimizer
def test_plain_optimizers_take_schedules_of_lists(factory: Any) -> None:
    """With kernels, too, whose steps in one pass know one rate."""

    def ends(lr: Any, count: int) -> list[torch.Tensor]:
        params = [torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(count)]
        optimizer = torchopt.Optimizer(params, factory(lr=lr))
        for _ in range(3):
            optimizer.zero_grad()
            sum(param.sin().sum() for param in params).backward()
            optimizer.step()
        return params

    together = ends(lambda count: [0.1, 0.2 * 0.5**count], 2)
    alone = [*ends(0.1, 1), *ends(lambda count: 0.2 * 0.5**count, 1)]
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize('inplace', [True, False])
def test_a_tree_from_a_schedule_must_fit(inplace: bool) -> None:
    optimizer = torchopt.sgd(lr=lambda count: {'w': 0.1})
    params = {'w': torch.ones(2), 'b': torch.ones(2)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r'schedule\(count\) and updates differ in structure'):
        optimizer.update(params, state, inplace=inplace)
    assert torch.equal(params['w'], torch.ones(2))


def test_numbers_and_tensors_can_stand_side_by_side() -> None:
    rate = torch.tensor([0.5, 1.0], requires_grad=True)
    params = {'w': torch.ones(2), 'b': torch.ones(2)}
    optimizer = torchopt.sgd(lr={'w': rate, 'b': 0.25})
    updates, _ = optimizer.update(params, optimizer.init(params), inplace=False)
    assert torch.equal(updates['w'], torch.tensor([-0.5, -1.0]))
    assert torch.equal(updates['b'], torch.tensor([-0.25, -0.25]))
    assert torch.equal(torch.autograd.grad(updates['w'].sum(), rate)[0], -torch.ones(2))


@pytest.mark.compile
@pytest.mark.parametrize(
    'lr', [RATES, lambda count: RATES, lambda count: {'w': 0.5**count, 'b': 0.1}]
)
def test_trees_of_numbers_compile(lr: Any) -> None:
    compiled = torch.compile(run, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(torchopt.adam, lr), run(torchopt.adam, lr))


def test_asgd_keeps_a_rate_in_float64_for_each_parameter() -> None:
    params = {'w': torch.ones(2, dtype=torch.bfloat16), 'b': None}
    optimizer = torchopt.asgd(lr=0.3)
    state = optimizer.init(params)
    assert state[0].eta.tolist() == [0.3, 0.3]
    _, state = optimizer.update(params, state, params=params)
    expected = torch.tensor([0.3, 0.3 / (1 + 3e-5) ** 0.75], dtype=torch.float64)  # b, w
    torch.testing.assert_close(state[0].eta, expected, rtol=1e-12, atol=0)


def test_asgd_takes_a_rate_for_each_entry_of_one_tensor() -> None:
    rate, param = torch.tensor([0.5, 1.0], requires_grad=True), torch.ones(2)
    optimizer = torchopt.asgd(lr=rate, lambd=0.0)
    updates, _ = optimizer.update(torch.ones(2), optimizer.init(param), params=param, inplace=False)
    assert torch.equal(updates, -rate)
    assert torch.equal(torch.autograd.grad(updates.sum(), rate)[0], -torch.ones(2))


def test_a_schedule_for_asgd_returns_scalars() -> None:
    optimizer = torchopt.asgd(lr=lambda count: {'w': torch.ones(2), 'b': 0.1})
    with pytest.raises(ValueError, match=r"lr\['w'\] must be a scalar"):
        optimizer.init({'w': torch.ones(2), 'b': torch.ones(2)})
