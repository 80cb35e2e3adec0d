"""Cutting the graph: in place, everywhere, and so that nothing of it stays alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.modules import Net, StandIn, contents, is_same
from torchopt_utils import ModuleState

View = Callable[[torch.Tensor], torch.Tensor]


def graph(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, weakref.ref[Any]]:
    """A tensor of a graph, and a weak reference that dies with the graph."""
    # The square saves its argument, so that the weak reference lives as long as the graph.
    inner = torch.ones(3, dtype=dtype, requires_grad=True).exp()
    return inner.square(), weakref.ref(inner)


def is_alive(reference: weakref.ref[Any]) -> bool:
    gc.collect()
    return reference() is not None


def test_a_module_is_cut_in_place(linear: nn.Linear, optimizer: StandIn, x: torch.Tensor) -> None:
    linear.register_buffer('history', None)
    inner = x.clone().requires_grad_().exp()
    reference = weakref.ref(inner)
    optimizer.step(linear(inner).square().sum())
    linear._buffers['history'] = linear.weight * 2
    del inner
    tensors = [linear.weight, linear.bias, linear.history]
    values = [t.detach().clone() for t in tensors]
    assert is_alive(reference)

    assert torchopt.stop_gradient(linear) is None
    torchopt.stop_gradient(optimizer)
    assert not is_alive(reference)
    assert tensors == [linear.weight, linear.bias, linear.history]
    for tensor, value in zip(tensors, values):
        assert torch.equal(tensor, value)
        assert tensor.is_leaf
        assert tensor.requires_grad
    for leaf in torchopt.pytree.tree_leaves(optimizer.state_dict()):
        assert leaf.is_leaf
    optimizer.step(linear(x).sum())
    assert not torch.equal(linear.weight, values[0])


def test_an_optimizer_keeps_its_tensors(
    linear: nn.Linear, optimizer: StandIn, x: torch.Tensor
) -> None:
    optimizer.step(linear(x).square().sum())
    states = optimizer.states
    before = torchopt.pytree.tree_leaves(states)
    wanted = [t.requires_grad for t in before]
    assert any(t.grad_fn is not None for t in before)
    torchopt.stop_gradient(optimizer)
    assert optimizer.states is states
    assert [t.requires_grad for t in before] == wanted
    assert all(t.grad_fn is None for t in before)


def test_leaves_are_left_alone(net: Net) -> None:
    before = contents(net)
    required = [t is not None and t.requires_grad for t in before]
    torchopt.stop_gradient(net)
    assert is_same(contents(net), before)
    assert [t is not None and t.requires_grad for t in before] == required
    assert isinstance(net.first.weight, nn.Parameter)


@pytest.mark.parametrize('by', ['reference', 'copy'])
def test_a_state_is_cut(linear: nn.Linear, by: Any) -> None:
    tensor, reference = graph()
    linear._parameters['bias'] = tensor
    state = torchopt.extract_state_dict(linear, by=by, enable_visual=True)
    held = state.params[0]['bias']
    linear._parameters['bias'] = None
    del tensor
    assert is_alive(reference)
    torchopt.stop_gradient(state)
    assert not is_alive(reference)
    assert state.params[0]['bias'] is state.visual_contents['bias'] is held
    assert held.is_leaf
    assert held.requires_grad


def test_a_tree_is_cut() -> None:
    a, first = graph()
    b, second = graph()
    tree = {'a': a, 'more': [b, None, a]}
    assert is_alive(first)
    assert is_alive(second)
    torchopt.stop_gradient(tree)
    assert tree['a'] is a is tree['more'][2]
    assert a.requires_grad
    assert b.requires_grad
    assert not is_alive(first)
    assert not is_alive(second)


def test_detaching_returns_the_target(linear: nn.Linear, optimizer: StandIn) -> None:
    tensor, reference = graph()
    assert is_alive(reference)
    assert torchopt.module_detach_(tensor) is tensor
    assert tensor.is_leaf
    assert not is_alive(reference)
    assert torchopt.module_detach_(linear) is linear
    assert torchopt.module_detach_(optimizer) is optimizer


def test_a_gradient_with_a_graph_is_cut_too(linear: nn.Linear) -> None:
    inner = torch.ones(2, dtype=torch.float64, requires_grad=True).exp()
    reference = weakref.ref(inner)
    gradient = linear.weight.detach() * inner.square()
    linear.weight.grad = gradient
    value = gradient.detach().clone()
    del inner, gradient
    assert is_alive(reference)
    torchopt.stop_gradient(linear)
    assert not is_alive(reference)
    assert torch.equal(linear.weight.grad, value)


def views() -> Iterator[View]:
    """Ways to make a view with a graph, one of them in no graph itself."""

    def without_grad(tensor: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return tensor[1:]

    yield lambda tensor: tensor[1:]
    yield lambda tensor: tensor.unbind()[0].unsqueeze(0)
    yield without_grad


@pytest.mark.parametrize('view', list(views()))
def test_a_module_replaces_views(view: View) -> None:
    base, reference = graph()
    module = nn.Module()
    module.child = nn.Module()
    module._parameters['p'] = module.child._parameters['tied'] = view(base)
    module._buffers['b'] = view(base)
    module._parameters['base'] = base
    module._parameters['none'] = None
    old = module.p
    assert is_alive(reference)
    torchopt.stop_gradient(module)
    assert module.p is module.child.tied
    assert module.p is not old
    assert module.base is base
    assert torch.equal(module.p, old)
    assert module.p.data_ptr() == old.data_ptr()
    for tensor in (module.p, module.b, module.base):
        assert tensor.is_leaf
        assert tensor.requires_grad
    del base, old
    assert not is_alive(reference)


def test_a_state_replaces_views() -> None:
    base, reference = graph()
    view = base[1:]
    state = ModuleState(({'p': view, 'none': None},), ({'b': view},), {'p': view})
    assert is_alive(reference)
    torchopt.stop_gradient(state)
    assert state.params[0]['p'] is state.buffers[0]['b'] is state.visual_contents['p']
    assert state.params[0]['p'].is_leaf
    del base, view
    assert not is_alive(reference)


def test_an_optimizer_is_given_detached_views(optimizer: StandIn) -> None:
    base, reference = graph()
    other, _ = graph()
    optimizer.states = [{'view': base[1:], 'same': None, 'other': other, 'note': 'text'}]
    optimizer.states[0]['same'] = optimizer.states[0]['view']
    assert is_alive(reference)
    torchopt.stop_gradient(optimizer)
    (state,) = optimizer.states
    assert state['view'] is state['same']
    assert state['view'].is_leaf
    assert state['view'].requires_grad
    assert state['other'] is other
    assert other.is_leaf
    assert state['note'] == 'text'
    del base
    assert not is_alive(reference)


@pytest.mark.parametrize('view', list(views()))
@pytest.mark.parametrize('function', [torchopt.stop_gradient, torchopt.module_detach_])
def test_a_tree_with_a_view_is_refused_before_anything_changes(
    view: View, function: Callable[[Any], Any]
) -> None:
    base, _ = graph()
    other, _ = graph()
    with pytest.raises(ValueError, match=r"target\['b'\]\[0\] is a view"):
        function({'a': other, 'b': [view(base)]})
    assert other.grad_fn is not None
    assert base.grad_fn is not None


def test_a_view_without_graph_is_left_alone() -> None:
    view = torch.ones(3)[1:]
    torchopt.stop_gradient([view])
    assert not view.requires_grad


def test_recurrent_layers_let_go_of_earlier_weights() -> None:
    lstm = nn.LSTM(1, 1)
    tensor, reference = graph(torch.float32)
    lstm._parameters['bias_ih_l0'] = torch.cat([tensor, tensor[:1]])
    lstm(torch.ones(1, 1))
    lstm._parameters['bias_ih_l0'] = torch.zeros(4)
    del tensor
    assert is_alive(reference)
    torchopt.stop_gradient(lstm)
    assert not is_alive(reference)


@pytest.mark.slow
def test_memory_is_constant_over_outer_steps(
    linear: nn.Linear, optimizer: StandIn, x: torch.Tensor
) -> None:
    meta = torch.ones((), dtype=torch.float64, requires_grad=True)
    references = []
    for _ in range(10):
        for _ in range(2):
            loss = (meta.exp() * linear(x)).square().mean()
            optimizer.step(loss)
            references += [weakref.ref(t) for t in (loss, *linear._parameters.values())]
        torch.autograd.grad(linear(x).sum(), meta)
        torchopt.stop_gradient(linear)
        torchopt.stop_gradient(optimizer)
        del loss
        gc.collect()
        held = {id(t) for t in linear._parameters.values()}
        assert {id(r()) for r in references if r() is not None} == held
