"""Extraction: which tensors a state holds, how they hang together, and bad input."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.modules import Net, StandIn, contents, is_same
from torchopt_utils import ModuleState
from torchopt_utils.state import BufferSnapshot, ModuleSnapshot

MODES = ['reference', 'ref', 'copy', 'clone', 'deepcopy', 'deepclone']


def test_a_reference_holds_the_tensors_in_dictionaries_of_its_own(net: Net) -> None:
    state = torchopt.extract_state_dict(net)
    modules = list(net.modules())
    assert type(state) is ModuleState
    assert len(state.params) == len(state.buffers) == len(modules) == 4
    for module, params, buffers in zip(modules, state.params, state.buffers):
        assert list(params) == list(module._parameters)
        assert list(buffers) == list(module._buffers)
        assert all(params[name] is module._parameters[name] for name in params)
        assert all(buffers[name] is module._buffers[name] for name in buffers)
        assert params is not module._parameters
        assert buffers is not module._buffers
    assert state.params[1] == {'weight': net.first.weight, 'bias': None}
    assert state.buffers[0] == {'nothing': None}
    assert state.visual_contents is None


def test_a_reference_does_not_follow_replacements(net: Net) -> None:
    state = torchopt.extract_state_dict(net)
    before = contents(state)
    net.first._parameters['weight'] = net.first.weight * 2
    net.norm._buffers['running_mean'] = torch.zeros(2)
    assert is_same(contents(state), before)


@pytest.mark.parametrize('by', MODES)
def test_values_ties_and_absent_tensors_survive_every_mode(net: Net, by: Any) -> None:
    reference = torchopt.extract_state_dict(net)
    state = torchopt.extract_state_dict(net, by=by)
    torch.testing.assert_close(
        torchopt.pytree.tree_leaves(state), torchopt.pytree.tree_leaves(reference), rtol=0, atol=0
    )
    assert state.params[1]['bias'] is None
    assert state.buffers[0]['nothing'] is None
    assert state.params[1]['weight'] is state.params[2]['weight']


@pytest.mark.parametrize('by', ['copy', 'clone'])
@pytest.mark.parametrize('grad_mode', [True, False])
def test_gradients_flow_through_a_copy_also_under_no_grad(
    net: Net, by: Any, grad_mode: bool
) -> None:
    with torch.set_grad_enabled(grad_mode):
        state = torchopt.extract_state_dict(net, by=by)
    copied = state.params[1]['weight']
    assert copied is not net.first.weight
    assert copied.data_ptr() != net.first.weight.data_ptr()
    (gradient,) = torch.autograd.grad((3 * copied).sum(), net.first.weight)
    assert torch.equal(gradient, torch.full((2, 2), 3.0, dtype=torch.float64))
    assert not state.params[0]['frozen'].requires_grad


@pytest.mark.parametrize('by', ['deepcopy', 'deepclone'])
def test_a_deepcopy_is_detached_and_keeps_requires_grad_and_kind(net: Net, by: Any) -> None:
    net.second._parameters['bias'] = net.second.bias * 2
    state = torchopt.extract_state_dict(net, by=by)
    weight, bias, frozen = (
        state.params[1]['weight'],
        state.params[2]['bias'],
        state.params[0]['frozen'],
    )
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad
    assert weight.data_ptr() != net.first.weight.data_ptr()
    assert not isinstance(bias, nn.Parameter)
    assert bias.requires_grad
    assert bias.is_leaf
    assert isinstance(frozen, nn.Parameter)
    assert not frozen.requires_grad


def test_buffers_can_be_left_out_or_detached(net: Net) -> None:
    assert torchopt.extract_state_dict(net, with_buffers=False).buffers == ()
    net.norm._buffers['running_mean'] = net.first.weight.sum(0)
    for by in ('reference', 'copy'):
        state = torchopt.extract_state_dict(net, by=by, detach_buffers=True)
        mean = state.buffers[-1]['running_mean']
        assert mean is not net.norm.running_mean
        assert torch.equal(mean, net.norm.running_mean)
        assert mean.is_leaf
        assert mean.requires_grad
    assert torchopt.extract_state_dict(net, by='copy').buffers[-1]['running_mean'].grad_fn


def test_the_class_of_a_state_tells_what_recovering_copies(net: Net) -> None:
    reference = torchopt.extract_state_dict(net)
    buffers = torchopt.extract_state_dict(net, detach_buffers=True)
    copied = torchopt.extract_state_dict(net, by='copy')
    assert type(buffers) is BufferSnapshot
    assert type(copied) is ModuleSnapshot
    assert type(torchopt.extract_state_dict(reference, detach_buffers=True)) is BufferSnapshot
    assert type(torchopt.extract_state_dict(reference, by='deepcopy')) is ModuleSnapshot
    assert type(torchopt.extract_state_dict(copied)) is ModuleSnapshot
    assert type(torchopt.extract_state_dict(copied, detach_buffers=True)) is ModuleSnapshot


@pytest.mark.parametrize('by', MODES)
def test_tensors_move_to_another_device(net: Net, by: Any) -> None:
    state = torchopt.extract_state_dict(net, by=by, device='meta')
    leaves = torchopt.pytree.tree_leaves(state)
    assert leaves
    assert {leaf.device.type for leaf in leaves} == {'meta'}
    assert state.params[1]['weight'] is state.params[2]['weight']
    assert state.params[1]['weight'].requires_grad
    assert state.params[1]['weight'].is_leaf == by.startswith('deep')


def test_a_reference_on_its_own_device_is_the_tensor_itself(net: Net) -> None:
    state = torchopt.extract_state_dict(net, device='cpu')
    assert is_same(contents(state), contents(net))


def test_names_for_drawing_carry_the_prefix(net: Net) -> None:
    state = torchopt.extract_state_dict(net, enable_visual=True, visual_prefix='step0.')
    assert state.visual_contents == {f'step0.{name}': p for name, p in net.named_parameters()}
    copied = torchopt.extract_state_dict(net, by='copy', enable_visual=True)
    assert copied.visual_contents['first.weight'] is copied.params[1]['weight']


@pytest.mark.parametrize('by', ['copy', 'deepcopy'])
def test_a_state_can_be_extracted_again(net: Net, by: Any) -> None:
    state = torchopt.extract_state_dict(net, enable_visual=True)
    again = torchopt.extract_state_dict(state, by=by, with_buffers=False)
    assert again.buffers == ()
    assert again.params[1]['weight'] is again.params[2]['weight']
    assert again.params[1]['weight'] is again.visual_contents['first.weight']
    assert again.params[1]['weight'] is not net.first.weight
    assert torch.equal(again.params[1]['weight'], net.first.weight)


@pytest.mark.parametrize('by', MODES)
def test_an_optimizer_s_state_is_a_tree_with_containers_of_its_own(
    optimizer: StandIn, linear: nn.Linear, x: torch.Tensor, by: Any
) -> None:
    optimizer.step(linear(x).sum())
    (old,) = optimizer.state_dict()
    state = torchopt.extract_state_dict(optimizer, by=by)
    assert torchopt.pytree.tree_structure(state) == torchopt.pytree.tree_structure((old,))
    new, old = (torchopt.pytree.tree_leaves(tree) for tree in (state, old))
    for a, b in zip(new, old):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
        assert a.requires_grad == b.requires_grad
        assert (a is b) == (by in ('reference', 'ref'))
        assert a.is_leaf == (b.is_leaf or by.startswith('deep'))
    mu, mu_before = state[0][0].mu, optimizer.states[0][0].mu
    assert mu is not mu_before
    again = torchopt.extract_state_dict(state, by='deepcopy')
    assert all(leaf.is_leaf for leaf in torchopt.pytree.tree_leaves(again))


def test_leaves_of_an_optimizer_s_state_that_are_no_tensors_are_kept() -> None:
    weight = nn.Parameter(torch.ones(1))
    plain = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    weight.grad = torch.ones(1)
    plain.step()
    state = torchopt.extract_state_dict(plain, by='deepcopy')
    assert state['param_groups'][0]['lr'] == 0.5
    buffer = plain.state_dict()['state'][0]['momentum_buffer']
    assert torch.equal(state['state'][0]['momentum_buffer'], buffer)
    assert state['state'][0]['momentum_buffer'] is not buffer


def test_an_optimizer_before_its_first_step_may_have_no_state() -> None:
    assert torchopt.extract_state_dict(torchopt.FuncOptimizer(torchopt.adam())) is None


@pytest.mark.parametrize('by', ['reference', 'deepcopy'])
@pytest.mark.parametrize('detach_buffers', [True, False])
def test_a_state_can_be_saved(net: Net, x: torch.Tensor, by: Any, detach_buffers: bool) -> None:
    net.first._parameters['weight'] = net.second._parameters['weight'] = net.first.weight * 2
    state = torchopt.extract_state_dict(
        net, by=by, detach_buffers=detach_buffers, enable_visual=True
    )
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded) is type(state)
    torch.testing.assert_close(
        torchopt.pytree.tree_leaves(loaded), torchopt.pytree.tree_leaves(state), rtol=0, atol=0
    )
    torchopt.recover_state_dict(net, loaded)
    assert net.first.weight is net.second.weight
    assert net.first.weight.requires_grad


@pytest.mark.parametrize('by', ['shallow', '', None, 3, ['copy']])
def test_an_unknown_mode_is_refused(net: Net, by: Any) -> None:
    with pytest.raises(ValueError, match='by must be one of'):
        torchopt.extract_state_dict(net, by=by)


def test_an_unknown_device_is_refused(net: Net) -> None:
    with pytest.raises(RuntimeError, match='nowhere'):
        torchopt.extract_state_dict(net, device='nowhere')


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (3, 'target must be a module, an optimizer, an extracted state or a tree .* got int'),
        ('net', 'got str'),
        (None, 'got None'),
        (nn.Linear, 'got the class Linear'),
        (torchopt.Adam, 'got the class Adam'),
        ({'a': [torch.ones(1), 2.0]}, r"target\['a'\]\[1\] must be a tensor or None, got float"),
        ([nn.Linear(1, 1)], r'target\[0\] must be a tensor or None, got Linear'),
    ],
)
def test_a_target_of_another_type_is_refused(target: Any, message: str) -> None:
    for function in (
        torchopt.extract_state_dict,
        torchopt.module_clone,
        torchopt.stop_gradient,
        torchopt.module_detach_,
    ):
        with pytest.raises(TypeError, match=message):
            function(target)
