"""What a meta-optimizer shows, and how it is copied and pickled."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from torchopt.registry import OPTIMIZERS, OptimizerEntry

X = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def loss_of(net: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = net(X).square().mean()
    return loss


def test_repr_shows_groups_hyperparameters_and_numbers_of_parameters() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(2, 1, bias=False)
    optimizer = torchopt.MetaSGD(first, lr=0.1)
    optimizer.add_param_group(second, lr=torch.tensor(0.5), momentum=0.9)
    lines = repr(optimizer).splitlines()
    assert lines[0] == 'MetaSGD ('
    assert lines[-1] == ')'
    start = lines.index('Parameter Group 1')
    one, two = lines[1:start], lines[start:-1]
    assert one[0] == 'Parameter Group 0'
    assert {'    lr: 0.1', '    momentum: 0.0', '    parameters: 2'} <= {*one}
    assert {'    lr: tensor(0.5)', '    momentum: 0.9', '    parameters: 1'} <= {*two}


def test_repr_shows_a_chain_whole_and_cuts_large_values() -> None:
    net = nn.Linear(9, 1)
    composed = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.adam(lr=0.01))
    assert f'    impl: {composed!r}\n' in repr(torchopt.MetaOptimizer(net, composed))
    rates = {'weight': torch.ones(1, 9), 'bias': 0.1}
    lines = repr(torchopt.MetaAdam(net, lr=rates)).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith('    lr: {') and line.endswith('...') for line in lines)


def test_a_misspelt_hyperparameter_gets_a_suggestion() -> None:
    optimizer = torchopt.MetaAdam(nn.Linear(2, 1), lr=0.1)
    with pytest.raises(TypeError, match="no hyperparameter 'wieght_decay', did you mean 'weight_d"):
        optimizer.add_param_group(nn.Linear(2, 1), wieght_decay=0.1)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_module_and_optimizer_are_copied_together(entry: OptimizerEntry, duplicate: Any) -> None:
    net = nn.Linear(2, 1)
    decay = torch.tensor(0.1, requires_grad=True)
    optimizer = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=0.1, weight_decay=decay)
    optimizer.step(loss_of(net))
    for tensor in [*net.parameters(), *torchopt.pytree.tree_leaves(optimizer.state_dict())]:
        if tensor.grad_fn is not None:
            tensor.detach_().requires_grad_()
    twin, copied_decay, copied = duplicate((net, decay, optimizer))
    copied.add_param_group(nn.Linear(2, 1))
    weight = twin.weight
    for _ in range(2):  # the learning rate of an ASGD step is in the state before it
        optimizer.step(loss_of(net))
        copied.step(loss_of(twin))
    assert twin.weight is not weight
    assert torch.equal(twin.weight, net.weight)
    assert len(optimizer.state_dict()) == 1
    gradient = torch.autograd.grad(loss_of(twin), copied_decay)
    assert torch.equal(gradient[0], torch.autograd.grad(loss_of(net), decay)[0])


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_optimizer_of_any_transformation_is_copied(duplicate: Any) -> None:
    net = nn.Linear(2, 1)
    impl = torchopt.chain(torchopt.clip_grad_norm(0.1), torchopt.adam(lr=0.1))
    twin, copied = duplicate((net, torchopt.MetaOptimizer(net, impl)))
    copied.step(loss_of(twin))
    torchopt.MetaOptimizer(net, impl).step(loss_of(net))
    assert torch.equal(twin.weight, net.weight)


def test_a_deepcopy_with_a_graph_says_what_to_do() -> None:
    net = nn.Linear(2, 1)
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(loss_of(net))
    with pytest.raises(RuntimeError, match=r'call torchopt\.stop_gradient on the module'):
        copy.deepcopy(optimizer)


def test_attributes_of_a_subclass_are_copied() -> None:
    class Mine(torchopt.MetaSGD):
        note = ''

    optimizer = Mine(nn.Linear(2, 1), lr=0.1)
    optimizer.note = 'kept'
    assert copy.copy(optimizer).note == 'kept'
