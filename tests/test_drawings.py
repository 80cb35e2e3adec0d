"""Drawings of steps of meta-optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchopt
from support.dot import parsed

pytest.importorskip('graphviz')


def updates(picture_source: str, step: int) -> list[str]:
    inside = parsed(picture_source).inside(f'step {step}')
    return [text for text in inside if 'update' in text]


@pytest.mark.parametrize('fused', [False, True])
def test_the_rule_has_its_name_and_the_state_its_fields(fused: bool) -> None:
    if fused and not torchopt.accelerated_op_available('cpu'):
        pytest.skip('the extension is not built')
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    inner = torchopt.MetaAdam(net, lr=0.1, use_accelerated_op=fused)
    for _ in range(2):
        inner.step(net(torch.ones(2, 1)).square().mean())
    source = torchopt.make_dot(net(torch.ones(2, 1)).mean(), inner).source
    assert updates(source, 1) == ['Adam update/0: weight, bias/2: weight, bias']
    assert 'params\n mu, nu' in parsed(source).edges.values()


def test_parameter_groups_take_one_step() -> None:
    first, second = nn.Linear(1, 3), nn.Linear(3, 1)
    inner = torchopt.MetaSGD(first, lr=0.1)
    inner.add_param_group(second, lr=0.2)
    for _ in range(2):
        inner.step(second(first(torch.ones(2, 1))).square().mean())
    source = torchopt.make_dot(second(first(torch.ones(2, 1))).mean()).source
    assert [updates(source, step) for step in (1, 2, 3)] == [['SGD update/4 parameters']] * 2 + [[]]


def test_tasks_that_start_from_one_state_are_runs() -> None:
    net = nn.Linear(1, 1)
    inner = torchopt.MetaSGD(net, lr=0.1)
    start = torchopt.extract_state_dict(net)
    losses = []
    for _ in range(2):
        inner.step(net(torch.ones(2, 1)).square().mean())
        losses.append(net(torch.ones(2, 1)).square().mean())
        torchopt.recover_state_dict(net, start)
    picture = parsed(torchopt.make_dot(torch.stack(losses).sum(), net).source)
    titles = {titles for titles in picture.cluster.values() if titles}
    assert titles == {('run 1, step 1',), ('run 2, step 1',)}
    assert [text for text in picture.inside() if text.startswith('weight')] == [
        'weight (1, 1)/bias (1,)'
    ]
