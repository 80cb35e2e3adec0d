"""Clones: independent containers, tied weights, graphs where they are wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.modules import Net, StandIn, contents, is_same
from torchopt_utils import ModuleState

MODES = ['reference', 'copy', 'deepcopy']


@pytest.mark.parametrize('by', MODES)
@pytest.mark.parametrize('has_graph', [True, False])
def test_a_module_s_clone_has_its_structure(
    net: Net, x: torch.Tensor, by: Any, has_graph: bool
) -> None:
    if has_graph:
        net.first._parameters['weight'] = net.second._parameters['weight'] = net.first.weight * 2
    clone = torchopt.module_clone(net.eval(), by=by)
    assert type(clone) is type(net)
    assert clone is not net
    assert clone.again is clone.second
    assert clone.first.weight is clone.second.weight
    assert clone.first.bias is None
    assert not clone.training
    assert torch.equal(clone(x), net(x))
    assert (clone.first.weight is net.first.weight) == (by == 'reference')
    assert (clone.norm.running_mean is net.norm.running_mean) == (by == 'reference')
    assert clone.first.weight.requires_grad
    assert not clone.frozen.requires_grad
    if by == 'copy':
        gradient = torch.autograd.grad(clone.first.weight.sum(), net.first.weight)
        assert torch.equal(gradient[0], torch.ones(2, 2))
    if by == 'deepcopy':
        assert clone.first.weight.is_leaf
        assert isinstance(clone.first.weight, nn.Parameter) != has_graph


def test_replacing_parameters_of_a_clone_leaves_the_original(net: Net) -> None:
    before = contents(net)
    clone = torchopt.module_clone(net)
    clone.first._parameters['weight'] = torch.zeros(2, 2)
    clone.norm._buffers['running_mean'] = torch.zeros(2)
    assert is_same(contents(net), before)


def test_buffers_are_detached_if_wanted(net: Net, x: torch.Tensor) -> None:
    net.norm._buffers['running_mean'] = net.first.weight.sum(0)
    clone = torchopt.module_clone(net, detach_buffers=True)
    assert clone.first.weight is net.first.weight
    assert clone.norm.running_mean.is_leaf
    assert clone.norm.running_mean.requires_grad
    assert torch.equal(clone.norm.running_mean, net.norm.running_mean)
    assert clone.norm.running_var is not net.norm.running_var


@pytest.mark.parametrize('by', MODES)
def test_clones_move_to_another_device(net: Net, by: Any) -> None:
    clone = torchopt.module_clone(net, by=by, device='meta')
    tensors = [*clone.parameters(), *clone.buffers()]
    assert {t.device.type for t in tensors} == {'meta'}
    assert clone.first.weight is clone.second.weight
    assert net.first.weight.device.type == 'cpu'


@pytest.mark.parametrize('by', MODES)
def test_attributes_that_carry_a_graph_are_cloned_too(linear: nn.Linear, by: Any) -> None:
    linear.recent = [linear.weight * 2]
    linear.main = linear.weight
    clone = torchopt.module_clone(linear, by=by)
    assert clone.recent is not linear.recent
    assert torch.equal(clone.recent[0], linear.recent[0])
    assert clone.main is clone.weight


@pytest.mark.parametrize('by', MODES)
def test_recurrent_layers_can_be_cloned_with_a_graph(by: Any) -> None:
    torch.manual_seed(0)
    lstm, x = nn.LSTM(1, 2), torch.ones(1, 1)
    for name, parameter in list(lstm._parameters.items()):
        lstm._parameters[name] = parameter * 2
    expected = lstm(x)[0]
    clone = torchopt.module_clone(lstm, by=by)
    assert torch.equal(clone(x)[0], expected)
    clone._parameters['weight_ih_l0'] = torch.zeros_like(clone.weight_ih_l0)
    assert not torch.equal(clone(x)[0], expected)
    assert torch.equal(lstm(x)[0], expected)


@pytest.mark.parametrize('by', MODES)
def test_an_optimizer_s_clone_steps_the_same_module_with_its_own_state(
    optimizer: StandIn, linear: nn.Linear, x: torch.Tensor, by: Any
) -> None:
    optimizer.step(linear(x).square().sum())
    before = torchopt.pytree.tree_leaves(optimizer.state_dict())
    clone = torchopt.module_clone(optimizer, by=by)
    assert type(clone) is type(optimizer)
    assert clone.module is linear
    cloned = torchopt.pytree.tree_leaves(clone.state_dict())
    assert is_same(cloned, before) == (by == 'reference')
    assert [torch.equal(a, b) for a, b in zip(cloned, before)] == [True] * len(before)
    weight = linear.weight
    clone.step(linear(x).square().sum())
    assert linear.weight is not weight
    assert is_same(torchopt.pytree.tree_leaves(optimizer.state_dict()), before)
    assert not is_same(torchopt.pytree.tree_leaves(clone.state_dict()), cloned)


def test_a_plain_optimizer_s_clone_steps_the_same_tensors() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = torchopt.Adam([weight], lr=0.5)
    clone = torchopt.module_clone(optimizer, by='deepcopy')
    weight.sum().backward()
    clone.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.5]))
    other = torch.ones(1, requires_grad=True)
    clone.add_param_group({'params': [other]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize('by', MODES)
def test_a_state_is_cloned(net: Net, by: Any) -> None:
    state = torchopt.extract_state_dict(net, enable_visual=True)
    clone = torchopt.module_clone(state, by=by, detach_buffers=True)
    assert isinstance(clone, ModuleState)
    assert clone.params[0] is not state.params[0]
    assert (clone.params[1]['weight'] is net.first.weight) == (by == 'reference')
    assert clone.visual_contents['first.weight'] is clone.params[1]['weight']
    assert clone.buffers[-1]['running_mean'] is not net.norm.running_mean
    assert torch.equal(clone.buffers[-1]['running_mean'], net.norm.running_mean)


@pytest.mark.parametrize('by', MODES)
def test_a_tree_is_cloned(by: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    tree = {'a': x, 'b': [x, None, x * 2]}
    clone = torchopt.module_clone(tree, by=by)
    assert clone['b'] is not tree['b']
    assert clone['a'] is clone['b'][0]
    assert clone['b'][1] is None
    assert (clone['a'] is x) == (by == 'reference')
    assert torch.equal(clone['b'][2], tree['b'][2])
    assert clone['b'][2].is_leaf == (by == 'deepcopy')
    assert clone['b'][2].requires_grad
    assert torchopt.module_clone(x, by=by, device='meta').device.type == 'meta'


@pytest.mark.parametrize('target', [nn.Linear(1, 1), torchopt.FuncOptimizer(torchopt.adam()), []])
def test_an_unknown_mode_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match=r"by must be one of 'reference', .* got 'share'"):
        torchopt.module_clone(target, by='share')
