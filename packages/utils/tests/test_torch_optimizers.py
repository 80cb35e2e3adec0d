"""Optimizers that write into their state, such as ``torch.optim``, and their hyperparameters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt

MODES: list[Any] = ['reference', 'copy', 'deepcopy']
MAKERS: dict[str, Callable[[list[torch.Tensor]], Any]] = {
    'Adadelta': lambda params: torch.optim.Adadelta(params, lr=0.1),
    'Adagrad': lambda params: torch.optim.Adagrad(params, lr=0.1),
    'Adam': lambda params: torch.optim.Adam(params, lr=0.1, amsgrad=True, foreach=False),
    'LBFGS': lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=2),
    'RMSprop': lambda params: torch.optim.RMSprop(params, lr=0.1, momentum=0.9, centered=True),
    'SGD': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    'torchopt.Adam': lambda params: torchopt.Adam(params, lr=0.1),
    'torchopt.SGD': lambda params: torchopt.SGD(params, lr=0.1, momentum=0.9),
    'torchopt.Optimizer': lambda params: torchopt.Optimizer(params, torchopt.rmsprop(lr=0.1)),
}


def tensors_of(tree: Any) -> list[torch.Tensor]:
    leaves = torchopt.pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def values_of(tree: Any) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors_of(tree)]


def take_step(optimizer: Any, weight: torch.Tensor) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight - torch.tensor([1.0, -2.0])).pow(4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize('by', MODES)
@pytest.mark.parametrize('name', MAKERS)
def test_a_state_can_be_recovered_any_number_of_times(name: str, by: Any) -> None:
    weight = torch.zeros(2, requires_grad=True)
    optimizer = MAKERS[name]([weight])
    take_step(optimizer, weight)
    start = weight.detach().clone()
    state = torchopt.extract_state_dict(optimizer, by=by)
    extracted = values_of(state)

    results = []
    for _ in range(3):
        for _ in range(2):
            take_step(optimizer, weight)
        results.append(weight.detach().clone())
        assert all(map(torch.equal, values_of(state), extracted))
        torchopt.recover_state_dict(optimizer, state)
        with torch.no_grad():
            weight.copy_(start)
    assert not torch.equal(results[0], start)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# copy.copy of torch.optim.LBFGS loses an attribute that its step needs.
@pytest.mark.parametrize('by', MODES)
@pytest.mark.parametrize('name', [name for name in MAKERS if name != 'LBFGS'])
def test_a_clone_steps_with_a_state_of_its_own(name: str, by: Any) -> None:
    weight = torch.zeros(2, requires_grad=True)
    optimizer = MAKERS[name]([weight])
    take_step(optimizer, weight)
    before = values_of(optimizer.state_dict())
    clone = torchopt.module_clone(optimizer, by=by)
    start = weight.detach().clone()
    take_step(clone, weight)
    assert not torch.equal(weight, start)
    assert all(map(torch.equal, values_of(optimizer.state_dict()), before))


@pytest.mark.parametrize('by', ['reference', 'copy'])
def test_a_state_with_a_graph_stays_connected(by: Any) -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    weight = torch.zeros(2, requires_grad=True)
    moved = weight.clone()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, differentiable=True)
    optimizer.param_groups[0]['params'][0] = moved
    for _ in range(2):  # torch detaches the first buffer.
        moved.grad = scale * torch.ones(2)
        optimizer.step()
    state = torchopt.extract_state_dict(optimizer, by=by)
    torchopt.recover_state_dict(optimizer, state)
    held = optimizer.state_dict()['state'][0]['momentum_buffer']
    assert held is not state['state'][0]['momentum_buffer']
    assert torch.autograd.grad(held.sum(), scale)[0] == 2

    torchopt.stop_gradient(optimizer)
    held = optimizer.state_dict()['state'][0]['momentum_buffer']
    assert held.grad_fn is None
    torch.testing.assert_close(held.detach(), torch.full((2,), 3.8))


def test_a_learned_rate_stays_the_tensor_that_is_learned() -> None:
    rate = torch.tensor(0.1, requires_grad=True)
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=rate, differentiable=True)
    state = torchopt.extract_state_dict(optimizer)
    assert state['param_groups'][0]['lr'] is rate
    torchopt.recover_state_dict(optimizer, state)
    assert optimizer.param_groups[0]['lr'] is rate
    assert torchopt.module_clone(optimizer).param_groups[0]['lr'] is rate


@pytest.mark.parametrize('make', [torch.optim.SGD, torchopt.SGD])
def test_a_detached_rate_is_written_into_the_one_that_is_learned(make: Any) -> None:
    rate = torch.tensor(0.1, requires_grad=True)
    weight = torch.zeros(2, requires_grad=True)
    options = {'differentiable': True} if make is torch.optim.SGD else {}
    optimizer = make([weight], lr=rate, **options)
    state = torchopt.extract_state_dict(optimizer, by='deepcopy')
    with torch.no_grad():
        rate.fill_(0.5)
    torchopt.recover_state_dict(optimizer, state)
    assert optimizer.param_groups[0]['lr'] is rate
    torch.testing.assert_close(rate.detach(), torch.tensor(0.1))
    with torch.no_grad():
        rate.fill_(0.5)
    torchopt.recover_state_dict(optimizer, state)
    torch.testing.assert_close(rate.detach(), torch.tensor(0.1))

    clone = torchopt.module_clone(optimizer, by='deepcopy')
    assert clone.param_groups[0]['lr'] is not rate
    assert optimizer.param_groups[0]['lr'] is rate


def test_a_copied_rate_is_connected_to_its_original() -> None:
    rate = torch.tensor(0.1, requires_grad=True)
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=rate, differentiable=True)
    state = torchopt.extract_state_dict(optimizer, by='copy')
    torchopt.recover_state_dict(optimizer, state)
    held = optimizer.param_groups[0]['lr']
    assert held is not rate
    assert torch.autograd.grad(3 * held, rate)[0] == 3


def test_cutting_leaves_hyperparameters_in_their_graph() -> None:
    log_rate = torch.tensor(-2.0, requires_grad=True)
    rate = log_rate.exp()
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=rate, differentiable=True)
    torchopt.stop_gradient(optimizer)
    torchopt.stop_gradient(optimizer.state_dict())
    assert torch.autograd.grad(rate, log_rate)[0] == rate


def test_a_schedule_that_writes_into_a_rate_leaves_the_state() -> None:
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.5))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    state = torchopt.extract_state_dict(optimizer)
    for _ in range(2):
        take_step(optimizer, weight)
        schedule.step()
        torchopt.recover_state_dict(optimizer, state)
        assert optimizer.param_groups[0]['lr'] == 0.5


def test_an_extracted_state_can_be_extracted_cloned_cut_and_saved() -> None:
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    take_step(optimizer, weight)
    state = torchopt.extract_state_dict(optimizer)
    again = torchopt.extract_state_dict(state, by='deepcopy')
    clone = torchopt.module_clone(state)
    assert clone['state'][0]['exp_avg'] is state['state'][0]['exp_avg']
    assert again['state'][0]['exp_avg'] is not state['state'][0]['exp_avg']
    assert again['param_groups'] == state['param_groups']
    torchopt.stop_gradient(state)
    file = io.BytesIO()
    torch.save(again, file)
    file.seek(0)
    torchopt.recover_state_dict(optimizer, torch.load(file))
    assert torch.equal(optimizer.state[weight]['exp_avg'], state['state'][0]['exp_avg'])


def test_a_state_that_torch_refuses_changes_nothing() -> None:
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    take_step(optimizer, weight)
    before = copy.deepcopy(optimizer.state_dict())
    state = torchopt.extract_state_dict(optimizer)
    state['param_groups'] *= 2
    with pytest.raises(ValueError, match='different number of parameter groups'):
        torchopt.recover_state_dict(optimizer, state)
    assert torch.equal(optimizer.state[weight]['exp_avg'], before['state'][0]['exp_avg'])
    assert optimizer.param_groups[0]['lr'] == 0.1
