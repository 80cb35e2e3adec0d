"""Drawings: which nodes there are, how they are joined and called."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

import torchopt
from support.dot import parsed
from support.modules import StandIn

pytest.importorskip('graphviz')


def nodes(dot: Any) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Labels by node, and edges."""
    found = parsed(dot.source)
    return found.labels, list(found.edges)


def labels(dot: Any) -> list[str]:
    return sorted(nodes(dot)[0].values())


def test_a_chain_of_operations() -> None:
    x = torch.ones(2, requires_grad=True)
    dot = torchopt.make_dot(x.exp().sum())
    names, edges = nodes(dot)
    path = [next(name for name in names if names[name] == '(2,)')]
    while following := dict(edges).get(path[-1]):
        path.append(following)
    assert [names[name] for name in path] == ['(2,)', 'ExpBackward0', 'SumBackward0', 'var\n()']


def test_a_tensor_that_is_used_twice_is_one_node() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    names, edges = nodes(torchopt.make_dot((y * y).sum() + x.sum()))
    assert list(names.values()).count('ExpBackward0') == 1
    assert list(names.values()).count('(2,)') == 1
    (leaf,) = (name for name in names if names[name] == '(2,)')
    assert [start for start, _ in edges].count(leaf) == 2


def test_trees_have_an_output_for_every_tensor_with_a_graph() -> None:
    x = torch.ones((), requires_grad=True)
    dot = torchopt.make_dot({'a': x * 2, 'b': [x, None, torch.ones(1)]})
    assert labels(dot) == ['()', 'MulBackward0', "var['a']\n()", "var['b'][0]\n()"]


def test_steps_are_named_by_the_states_of_the_module(
    linear: nn.Linear, optimizer: StandIn, x: torch.Tensor
) -> None:
    meta = torch.ones((), dtype=torch.float64, requires_grad=True)
    first = torchopt.extract_state_dict(linear, enable_visual=True, visual_prefix='step0.')
    optimizer.step((meta * linear(x)).sum())
    second = torchopt.extract_state_dict(linear, enable_visual=True, visual_prefix='step1.')
    loss = linear(x).sum()
    names = (first, second, {'meta': meta, 'loss': loss})
    found = labels(torchopt.make_dot(loss, names, detail='operations'))
    assert {'meta\n()', 'step0.weight\n(1, 2)', 'step1.weight\nAddBackward0'} <= set(found)
    assert 'loss\n()' in found
    assert '(1, 2)' not in found


@pytest.mark.parametrize(
    'params',
    [
        lambda net: net,
        lambda net: dict(net.named_parameters()),
        lambda net: net.named_parameters(),
        lambda net: {'weight': net.weight, 'bias': net.bias},
        lambda net: [net, {'other': net.weight}],
        lambda net: torchopt.extract_state_dict(net, enable_visual=True),
    ],
)
def test_names_come_from_many_sources(params: Any) -> None:
    net = nn.Linear(2, 1)
    found = labels(torchopt.make_dot(net(torch.ones(2)), params(net)))
    assert {'weight\n(1, 2)', 'bias\n(1,)'} <= set(found)


def test_names_are_escaped() -> None:
    x = torch.ones((), requires_grad=True)
    assert r'a\"b' in torchopt.make_dot(x.exp(), {'a"b': x}).source


def test_a_function_with_a_variable_of_its_own_is_an_operation() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.variable = 'mine'
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return 2 * g

    x = torch.ones((), requires_grad=True)
    assert 'DoubleBackward' in labels(torchopt.make_dot(Double.apply(x).exp()))


def test_deep_graphs_can_be_drawn() -> None:
    y = torch.ones((), requires_grad=True)
    for _ in range(2000):
        y = y + 1
    assert len(nodes(torchopt.make_dot(y))[0]) == 2002


@pytest.mark.parametrize(
    ('var', 'params', 'error', 'message'),
    [
        (torch.ones(1), (), ValueError, 'var has no graph'),
        ([], (), ValueError, 'var has no graph'),
        (3, (), TypeError, 'var must be a tree of tensors, got int'),
        ([3], (), TypeError, r'var\[0\] must be a tensor or None, got int'),
        ('good', 3, TypeError, 'params must be a module.* got int'),
        ('good', 'name', TypeError, 'got str'),
        ('good', torch.ones(1), TypeError, 'got a tensor'),
        ('good', [torch.ones(1)], TypeError, 'got a tensor'),
        ('good', {'x': 3}, TypeError, r"params\['x'\] must be a tensor, got int"),
        ('good', {'x': (3,)}, TypeError, r"params\['x'\] must be a tensor, got tuple"),
        (
            'good',
            torchopt.extract_state_dict(nn.Linear(1, 1)),
            ValueError,
            'extract it with enable_visual=True',
        ),
    ],
)
def test_bad_input_is_refused(var: Any, params: Any, error: type[Exception], message: str) -> None:
    if var == 'good':
        var = torch.ones(1, requires_grad=True).exp()
    with pytest.raises(error, match=message):
        torchopt.make_dot(var, params)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'detail': 'all'}, ValueError, "detail must be one of .*'operations'.*, got 'all'"),
        ({'theme': 'blue'}, ValueError, "theme must be one of .*'dark'.*, got 'blue'"),
        ({'max_steps': -1}, ValueError, 'max_steps must be at least 0, got -1'),
        ({'max_steps': 2.0}, TypeError, 'max_steps must be an integer or None, got float'),
        ({'depth': True}, TypeError, 'depth must be an integer or None, got bool'),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        torchopt.make_dot(torch.ones(1, requires_grad=True).exp(), **options)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'graphviz', None)
    with pytest.raises(ModuleNotFoundError, match='pip install graphviz'):
        torchopt.make_dot(torch.ones(1, requires_grad=True).exp())
