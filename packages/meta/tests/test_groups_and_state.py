"""Several modules under one meta-optimizer, and what its state allows."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from torchopt.registry import OPTIMIZERS, OptimizerEntry


def pair() -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(2, 1, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64)


def loss_of(*nets: nn.Module) -> torch.Tensor:
    batch = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    return torch.stack([net(batch).square().mean() for net in nets]).sum()


def test_group_with_hyperparameters_of_its_own() -> None:
    first, second = pair()
    starts = first.weight, second.weight
    optimizer = torchopt.MetaSGD(first, lr=0.1)
    optimizer.add_param_group(second, lr=0.3)
    loss = loss_of(first, second)
    gradients = torch.autograd.grad(loss, starts, retain_graph=True)
    optimizer.step(loss)
    for net, start, gradient, lr in zip((first, second), starts, gradients, (0.1, 0.3)):
        torch.testing.assert_close(net.weight, start - lr * gradient)


def test_group_with_a_transformation_of_its_own() -> None:
    first, second = pair()
    optimizer = torchopt.MetaOptimizer(first, torchopt.sgd(lr=0.1))
    optimizer.add_param_group(second, torchopt.adam(lr=0.1))
    optimizer.step(loss_of(first, second))
    assert len(optimizer.state_dict()) == 2
    assert hasattr(optimizer.state_dict()[1][0], 'mu')


def test_group_inherits_the_first_transformation() -> None:
    first, second = pair()
    optimizer = torchopt.MetaOptimizer(first, torchopt.sgd(lr=0.1))
    optimizer.add_param_group(second)
    start = second.weight
    optimizer.step(loss_of(first, second))
    assert second.weight is not start


def test_tensor_shared_by_two_groups_stays_one_tensor() -> None:
    first, second = pair()
    second.weight = first.weight
    optimizer = torchopt.MetaSGD(first, lr=0.1)
    optimizer.add_param_group(second, lr=0.3)
    start, loss = first.weight, loss_of(first, second)
    (gradient,) = torch.autograd.grad(loss, start, retain_graph=True)
    optimizer.step(loss)
    assert first.weight is second.weight
    torch.testing.assert_close(first.weight, start - 0.1 * gradient)


@pytest.mark.parametrize(
    ('group', 'error', 'match'),
    [
        (lambda first, second: (first, {}), ValueError, 'optimised already'),
        (lambda first, second: (second, {'lrr': 1.0}), TypeError, "no hyperparameter 'lrr'"),
        (lambda first, second: (second, {'lr': -1.0}), ValueError, 'lr must be'),
        (lambda first, second: (second.weight, {}), TypeError, 'torch.nn.Module'),
        (lambda first, second: (second.parameters(), {}), TypeError, r'not net.parameters\(\)'),
        (lambda first, second: (second, {'impl': 1}), TypeError, 'gradient transformation'),
    ],
)
def test_bad_group_is_refused_and_changes_nothing(
    group: Callable[[nn.Module, nn.Module], tuple[Any, dict[str, Any]]],
    error: type[Exception],
    match: str,
) -> None:
    first, second = pair()
    optimizer = torchopt.MetaSGD(first, lr=0.1)
    module, options = group(first, second)
    with pytest.raises(error, match=match):
        optimizer.add_param_group(module, **options)
    assert len(optimizer.state_dict()) == 1


def test_hyperparameters_need_the_class_of_one_rule() -> None:
    first, second = pair()
    optimizer = torchopt.MetaOptimizer(first, torchopt.sgd(lr=0.1))
    with pytest.raises(TypeError, match='own lr only in the class'):
        optimizer.add_param_group(second, lr=0.3)


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_saved_and_loaded_run_equals_the_uninterrupted_one(entry: OptimizerEntry) -> None:
    net, twin = pair()
    make = getattr(torchopt, f'Meta{entry.class_name}')
    optimizer = make(net, lr=0.1)
    for _ in range(2):
        optimizer.step(loss_of(net))

    file = io.BytesIO()
    torch.save((optimizer.state_dict(), dict(net.named_parameters())), file)
    file.seek(0)
    state, params = torch.load(file)
    with torch.no_grad():
        for name, param in twin.named_parameters():
            param.copy_(params[name])
    resumed = make(twin, lr=0.1)
    resumed.load_state_dict(state)

    for _ in range(2):
        optimizer.step(loss_of(net))
        resumed.step(loss_of(twin))
    for left, right in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)


def test_steps_do_not_write_into_an_extracted_state() -> None:
    net, _ = pair()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(loss_of(net))
    state = optimizer.state_dict()
    moments = state[0][0].mu['weight']
    copy = moments.clone()
    optimizer.step(loss_of(net))
    assert optimizer.state_dict()[0][0].mu['weight'] is not moments
    assert torch.equal(moments, copy)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda state: (),
        lambda state: state[0],
        lambda state: (state[0], state[0]),
        lambda state: ((state[0][0]._replace(mu={'weight': torch.ones(1, 2)}), state[0][1]),),
        lambda state: (
            (
                state[0][0]._replace(
                    mu={name: moment[..., :1] for name, moment in state[0][0].mu.items()}
                ),
                state[0][1],
            ),
        ),
    ],
)
def test_state_that_does_not_fit_is_refused(spoil: Callable[[Any], Any]) -> None:
    net, _ = pair()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match='state'):
        optimizer.load_state_dict(spoil(before))
    assert optimizer.state_dict()[0] is before[0]


def test_copy_steps_the_same_module_with_a_state_of_its_own() -> None:
    net, other = pair()
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(loss_of(net))
    before = optimizer.state_dict()

    clone = copy.copy(optimizer)
    assert type(clone) is torchopt.MetaAdam
    start = net.weight
    clone.step(loss_of(net))
    clone.add_param_group(other)

    assert net.weight is not start
    assert clone.state_dict()[0][0].steps.tolist() == [2, 2]
    assert optimizer.state_dict()[0] is before[0]
    assert len(optimizer.state_dict()) == 1
