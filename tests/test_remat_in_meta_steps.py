"""Rematerialized blocks under meta-optimizers, which replace the parameters of the modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import torchopt
from support.blocks import DTYPE, WIDTH, assert_equal, pair


@pytest.mark.parametrize('accelerated', [False, True])
def test_meta_adam(accelerated: bool) -> None:
    if accelerated and not torchopt.accelerated_op_available(torch.device('cpu')):
        pytest.skip('needs torchopt-accel')

    def meta_gradient(net: nn.Module) -> list[torch.Tensor]:
        weights = torch.ones(3, dtype=DTYPE, requires_grad=True)
        start = list(net.parameters())
        optimizer = torchopt.MetaAdam(net, lr=1e-2, use_accelerated_op=accelerated)
        x = torch.randn(3, WIDTH, dtype=DTYPE, generator=torch.manual_seed(0))
        for _ in range(3):
            optimizer.step((weights * net(x).square().mean(-1)).sum())
        loss = net(x.flip(0)).sin().sum()
        return list(torch.autograd.grad(loss, [weights, *start]))

    # Two pairs, because the steps change the modules.
    expected = meta_gradient(pair(count=2)[0])
    assert_equal(meta_gradient(pair(count=2)[1]), expected)


def test_copies_and_checkpoints() -> None:
    """A copy computes with its own parameters, and names have the prefix of the wrapper."""
    _, net = pair(count=1)
    twin = torchopt.pytree.tree_map(torch.clone, dict(net.state_dict()))
    assert '0.module.up.weight' in twin
    other = copy.deepcopy(net)
    with torch.no_grad():
        for param in net.parameters():
            param.zero_()
    x = torch.ones(2, WIDTH, dtype=DTYPE, requires_grad=True)
    assert not torch.equal(other(x), net(x))
    net.load_state_dict(twin)
    assert torch.equal(other(x), net(x))
