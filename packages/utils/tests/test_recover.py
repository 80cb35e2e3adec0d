"""Recovery: what comes back, how often, and what is refused before anything has changed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchopt
from support.modules import Net, StandIn, contents, is_same
from torchopt_utils import ModuleState

MODES = ['reference', 'copy', 'deepcopy']


@st.composite
def modules(draw: st.DrawFn) -> nn.Module:
    """Trees of modules with drawn slots: absent, frozen, tied, non-leaf, of any small shape."""
    pool = [nn.Parameter(torch.randn(draw(st.integers(0, 2)), 2)) for _ in range(2)]
    tensors = st.sampled_from(
        [
            lambda: None,
            lambda: nn.Parameter(torch.randn(())),
            lambda: nn.Parameter(torch.randn(3).half(), requires_grad=False),
            lambda: pool[0],
            lambda: pool[1],
            lambda: pool[1] * 2,
        ]
    )

    def module(depth: int) -> nn.Module:
        made = nn.Module()
        for index in range(draw(st.integers(0, 3))):
            made._parameters[f'p{index}'] = draw(tensors)()
        for index in range(draw(st.integers(0, 2))):
            buffer = draw(st.sampled_from([None, torch.arange(3), pool[0].detach() + 1]))
            made.register_buffer(f'b{index}', buffer)
        for index in range(draw(st.integers(0, 2)) if depth else 0):
            made.add_module(f'm{index}', module(depth - 1))
        return made

    return module(2)


@given(modules(), st.sampled_from(MODES), st.booleans())
def test_recovering_what_was_extracted_is_the_identity(
    module: nn.Module, by: Any, detach_buffers: bool
) -> None:
    before = torchopt.extract_state_dict(module)
    values = torchopt.extract_state_dict(module, by='deepcopy')
    state = torchopt.extract_state_dict(module, by=by, detach_buffers=detach_buffers)
    for submodule in module.modules():
        for slots in (submodule._parameters, submodule._buffers):
            for name, tensor in slots.items():
                slots[name] = None if tensor is None else torch.zeros_like(tensor)
    untie = {
        id(old): new
        for old, new in zip(leaves(before), leaves(torchopt.extract_state_dict(module)))
    }
    for submodule, params in zip(module.modules(), before.params):
        for name, tensor in params.items():
            submodule._parameters[name] = untie[id(tensor)]

    torchopt.recover_state_dict(module, state)
    after = torchopt.extract_state_dict(module)
    expected, found = leaves(values), leaves(after)
    assert len(expected) == len(found)
    for old, a, b in zip(leaves(before), expected, found):
        assert (a is None) == (b is None)
        if a is not None:
            assert torch.equal(a, b)
            assert a.dtype == b.dtype
            assert a.requires_grad == b.requires_grad
        if by == 'reference' and not detach_buffers:
            assert b is old
    assert ties(leaves(after.params)) == ties(leaves(before.params))


def leaves(tree: Any) -> list[Any]:
    return torchopt.pytree.tree_leaves(tree, none_is_leaf=True)


def ties(tensors: list[Any]) -> list[int]:
    ids = [id(tensor) for tensor in tensors]
    return [ids.index(each) for each in ids]


@pytest.mark.parametrize('by', MODES)
def test_steps_repeat_after_every_recovery(
    net: Net, x: torch.Tensor, by: Any, optimizer: StandIn, linear: nn.Linear
) -> None:
    state = torchopt.extract_state_dict(linear, by=by)
    optimizer_state = torchopt.extract_state_dict(optimizer, by=by)

    def two_steps() -> torch.Tensor:
        for _ in range(2):
            optimizer.step(linear(x).square().mean())
        return linear.weight.detach().clone()

    results = []
    for _ in range(3):
        results.append(two_steps())
        torchopt.recover_state_dict(linear, state)
        torchopt.recover_state_dict(optimizer, optimizer_state)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], linear.weight)


@pytest.mark.parametrize('by', ['copy', 'deepcopy'])
def test_training_in_place_leaves_a_snapshot_as_it_is(net: Net, x: torch.Tensor, by: Any) -> None:
    initial = torchopt.extract_state_dict(net, by='deepcopy')
    state = torchopt.extract_state_dict(net, by=by)
    for _ in range(2):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(1)
        net(x)
        assert not torch.equal(net.norm.running_mean, initial.buffers[-1]['running_mean'])
        torchopt.recover_state_dict(net, state)
        found = torchopt.extract_state_dict(net)
        for a, b in zip(leaves(initial), leaves(found)):
            assert a is b is None or torch.equal(a, b)


def test_detached_buffers_are_recovered_again_and_again_beside_references(
    net: Net, x: torch.Tensor
) -> None:
    weight = net.first.weight
    state = torchopt.extract_state_dict(net, detach_buffers=True)
    for _ in range(2):
        net(x)
        assert net.norm.num_batches_tracked == 1
        torchopt.recover_state_dict(net, state)
        assert net.norm.num_batches_tracked == 0
        assert torch.equal(net.norm.running_mean, torch.zeros(2))
        assert net.first.weight is weight


def test_a_copy_stays_connected_when_recovered_under_no_grad(linear: nn.Linear) -> None:
    weight = linear.weight
    state = torchopt.extract_state_dict(linear, by='copy')
    with torch.no_grad():
        torchopt.recover_state_dict(linear, state)
    linear.weight.sum().backward()
    assert torch.equal(weight.grad, torch.ones(1, 2))


def test_a_deepcopy_recovers_parameters_as_parameters(linear: nn.Linear) -> None:
    state = torchopt.extract_state_dict(linear, by='deepcopy')
    torchopt.recover_state_dict(linear, state)
    assert isinstance(linear.weight, nn.Parameter)
    assert linear.weight is not state.params[0]['weight']
    linear.weight.sum().backward()
    assert state.params[0]['weight'].grad is None


def test_the_module_and_the_state_share_no_dictionary(net: Net) -> None:
    state = torchopt.extract_state_dict(net)
    before = contents(state)
    torchopt.recover_state_dict(net, state)
    net.first._parameters['weight'] = None
    net.norm._buffers['running_mean'] = None
    net._parameters['extra'] = None
    assert is_same(contents(state), before)


def test_an_optimizer_and_its_state_share_no_container(
    optimizer: StandIn, linear: nn.Linear, x: torch.Tensor
) -> None:
    state = torchopt.extract_state_dict(optimizer)
    torchopt.recover_state_dict(optimizer, state)
    assert optimizer.states[0][0].mu is not state[0][0].mu
    assert optimizer.states[0][0].mu['weight'] is state[0][0].mu['weight']


def test_without_buffers_the_module_keeps_its_own(net: Net, x: torch.Tensor) -> None:
    state = torchopt.extract_state_dict(net, with_buffers=False)
    net(x)
    mean = net.norm.running_mean
    torchopt.recover_state_dict(net, state)
    assert net.norm.running_mean is mean
    assert net.norm.num_batches_tracked == 1


def test_shared_submodules_and_tied_weights_stay_so(net: Net, x: torch.Tensor) -> None:
    state = torchopt.extract_state_dict(net, by='deepcopy')
    torchopt.recover_state_dict(net, state)
    assert net.again is net.second
    assert net.first.weight is net.second.weight
    net(x)


def test_recurrent_layers_compute_with_what_was_recovered() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(1, 2)
    x = torch.ones(1, 1)
    expected = lstm(x)[0]
    state = torchopt.extract_state_dict(lstm, by='deepcopy')
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
    assert not torch.equal(lstm(x)[0], expected)
    torchopt.recover_state_dict(lstm, state)
    assert torch.equal(lstm(x)[0], expected)


def test_recurrent_layers_let_go_of_what_was_replaced() -> None:
    lstm = nn.LSTM(1, 1)
    state = torchopt.extract_state_dict(lstm)
    lstm._parameters['bias_ih_l0'] = replaced = torch.ones(4)
    lstm(torch.ones(1, 1))
    reference = weakref.ref(replaced)
    torchopt.recover_state_dict(lstm, state)
    del replaced
    gc.collect()
    assert reference() is None


def test_a_state_moves_a_module_to_its_device(linear: nn.Linear) -> None:
    torchopt.recover_state_dict(linear, torchopt.extract_state_dict(linear, device='meta'))
    assert linear.weight.device.type == 'meta'


def test_an_optimizer_without_state_recovers_it() -> None:
    optimizer = torchopt.FuncOptimizer(torchopt.adam(0.1))
    params = [torch.ones(1, requires_grad=True)]
    state = torchopt.extract_state_dict(optimizer)
    first = optimizer.step(params[0].sum(), params)
    torchopt.recover_state_dict(optimizer, state)
    assert optimizer.state_dict() is None
    assert torch.equal(optimizer.step(params[0].sum(), params)[0], first[0])


def misfits() -> Iterator[tuple[Any, type[Exception], str]]:
    weight, bias = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    good = {'weight': weight, 'bias': bias}
    yield ModuleState((good, good), ({},)), ValueError, 'parameters? of 2 submodules.* has 1'
    yield ModuleState((), ({},)), ValueError, 'of 0 submodules'
    yield ModuleState((good,), ({}, {})), ValueError, 'buffers of 2 submodules'
    yield ModuleState(({'weight': weight},), ({},)), ValueError, r"'bias'\].*\['weight'\]"
    yield ModuleState((good,), ({'mean': bias},)), ValueError, "buffers of 'the module itself'"
    yield ModuleState(({**good, 'bias': None},), ({},)), ValueError, "'bias'.*the state None"
    yield ModuleState(({**good, 'bias': weight},), ({},)), ValueError, r"'bias'.*\(1, 2\)"
    yield ModuleState(({**good, 'bias': bias.float()},), ({},)), ValueError, "'bias'.*float32"
    yield ModuleState(({**good, 'bias': 1.0},), ({},)), TypeError, "'bias'.*got float"
    yield good, TypeError, 'the state of a module is the ModuleState.*got dict'
    yield None, TypeError, 'got NoneType'


@pytest.mark.parametrize(('state', 'error', 'message'), list(misfits()))
def test_a_state_that_does_not_fit_changes_nothing(
    linear: nn.Linear, state: Any, error: type[Exception], message: str
) -> None:
    before = contents(linear)
    with pytest.raises(error, match=message):
        torchopt.recover_state_dict(linear, state)
    assert is_same(contents(linear), before)


def test_the_culprit_is_called_by_its_qualified_name(net: Net) -> None:
    state = torchopt.extract_state_dict(net)
    state.buffers[-1]['running_var'] = torch.ones(3)
    before = contents(net)
    with pytest.raises(ValueError, match=r"buffer 'norm.running_var'.*\(3,\)"):
        torchopt.recover_state_dict(net, state)
    del state.params[1]['bias']
    with pytest.raises(ValueError, match="parameters of 'first'"):
        torchopt.recover_state_dict(net, state)
    assert is_same(contents(net), before)


def test_tied_weights_are_not_separated(net: Net) -> None:
    state = torchopt.extract_state_dict(net)
    state.params[2]['weight'] = state.params[2]['weight'].clone()
    before = contents(net)
    with pytest.raises(ValueError, match=r"'first.weight' and 'second.weight' are one tensor"):
        torchopt.recover_state_dict(net, state)
    assert is_same(contents(net), before)


def test_the_state_of_another_kind_of_target_is_refused(
    linear: nn.Linear, optimizer: StandIn
) -> None:
    module_state = torchopt.extract_state_dict(linear)
    optimizer_state = torchopt.extract_state_dict(optimizer)
    before, states = contents(linear), optimizer.states
    with pytest.raises(TypeError, match=r'the state of a module is .* got tuple'):
        torchopt.recover_state_dict(linear, optimizer_state)
    for wrong, name in ((module_state, 'ModuleState'), (linear, 'Linear'), (optimizer, 'StandIn')):
        with pytest.raises(TypeError, match=f'the state of an optimizer is .* got {name}'):
            torchopt.recover_state_dict(optimizer, wrong)
    with pytest.raises(ValueError, match='wrong number of states'):
        torchopt.recover_state_dict(optimizer, optimizer_state * 2)
    assert is_same(contents(linear), before)
    assert optimizer.states is states


@pytest.mark.parametrize('target', [None, torch.ones(1), [torch.ones(1)], nn.Linear])
def test_only_modules_and_optimizers_can_recover(linear: nn.Linear, target: Any) -> None:
    with pytest.raises(TypeError, match='target must be a module or an optimizer'):
        torchopt.recover_state_dict(target, torchopt.extract_state_dict(linear))
