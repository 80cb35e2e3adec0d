"""What is alive after an outer step."""

import gc
import weakref

import pytest
import torch
from torch import nn

import torchopt
from torchopt.registry import OPTIMIZERS


class Canary:
    """Something that weak references can watch, unlike a node of the graph."""


class Watched(torch.autograd.Function):
    """The identity, with a node that keeps ``canary`` alive as long as it lives itself."""

    @staticmethod
    def forward(x, canary):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.canary = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_stop_gradient_frees_the_graph_of_every_outer_step(entry):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    batch = torch.randn(6, 3)
    weights = torch.ones(6, 1, requires_grad=True)
    inner = getattr(torchopt, f'Meta{entry.class_name}')(net, lr=0.01)
    outer = torchopt.Adam([weights], lr=0.01)
    gc.disable()  # reference counts alone must free the graph
    try:
        for _ in range(50):
            nodes, params = [], []
            for _ in range(2):
                canary = Canary()
                inner.step((Watched.apply(weights, canary) * net(batch).square()).mean())
                nodes.append(weakref.ref(canary))
                params.extend(weakref.ref(param) for param in net.parameters())
            del canary
            outer.zero_grad()
            net(batch).square().mean().backward()
            assert weights.grad.any() == entry.smooth
            outer.step()
            assert all(node() is not None for node in nodes)

            torchopt.stop_gradient(net)
            torchopt.stop_gradient(inner)

            assert all(node() is None for node in nodes)
            current = {id(param) for param in net.parameters()}
            assert {id(param()) for param in params if param() is not None} == current
    finally:
        gc.enable()
    assert all(param.is_leaf for param in net.parameters())
