"""Marks that meta-optimizers leave in the graph of autograd."""

import torch
from torch import nn

import torchopt
from torchopt.authoring.step_marks import step_of


def test_a_tied_parameter_has_one_mark():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    inner = torchopt.MetaSGD(net, lr=0.1)
    inner.step(net(torch.ones(1, 2)).square().mean())
    mark = step_of(net[0].weight.grad_fn)
    assert (mark.name, mark.step.by) == ('0.weight', 'MetaSGD')
    assert net[1].weight.grad_fn is net[0].weight.grad_fn


def test_groups_take_one_step():
    net, head = nn.Linear(2, 2), nn.Linear(2, 1)
    inner = torchopt.MetaAdam(net, lr=0.1)
    inner.add_param_group(head, lr=0.01)
    start = net.weight
    for _ in range(2):
        inner.step(head(net(torch.ones(1, 2))).square().mean())
    report = torchopt.explain(head(net(torch.ones(1, 2))).square().mean(), start)
    assert [(step.index, step.side_by_side) for step in report.steps] == [(1, 1), (2, 1)]
