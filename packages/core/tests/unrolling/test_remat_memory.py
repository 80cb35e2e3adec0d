"""The peak memory of a second derivative is the inputs of all blocks and the graph of one."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from support.blocks import DTYPE, Residual, pair
from support.live_bytes import LiveBytes

WIDTH = 16
ROWS = 64
# One activation of a block.
INPUT = ROWS * WIDTH * DTYPE.itemsize
# The sample of a block's results that a second run is compared with.
SLACK = 2 * WIDTH * DTYPE.itemsize


def wide() -> Residual:
    return Residual(WIDTH)


def peak(net: nn.Module, order: int = 2) -> int:
    x = torch.randn(ROWS, WIDTH, dtype=DTYPE, requires_grad=True)
    with LiveBytes() as memory:
        (value,) = torch.autograd.grad(net(x).sum(), x, create_graph=order > 1)
        for number in range(1, order):
            (value,) = torch.autograd.grad(value.sin().sum(), x, create_graph=number < order - 1)
        del value
        assert memory.now == 0
    return memory.peak


@pytest.mark.parametrize(('order', 'kept'), [(1, 1), (2, 2), (3, 5)])
def test_a_block_more_adds_its_inputs_alone(order: int, kept: int) -> None:
    """Its input for the first derivative; input and cotangent for the second; and so on."""
    few, many = (peak(pair(wide, count)[1], order) for count in (4, 12))
    assert 0 <= many - few - 8 * kept * INPUT <= 8 * SLACK
    plain_few, plain_many = (peak(pair(wide, count)[0], order) for count in (4, 12))
    assert plain_many - plain_few > 3.9 * (many - few)


def test_the_first_run_holds_one_block() -> None:
    few, many = (pair(wide, count)[1] for count in (4, 12))
    peaks = []
    for net in (few, many):
        x = torch.randn(ROWS, WIDTH, dtype=DTYPE, requires_grad=True)
        with LiveBytes() as memory:
            out = net(x)
            assert 0 <= memory.now - len(net) * INPUT <= len(net) * SLACK
            del out
        peaks.append(memory.peak)
    assert 0 <= peaks[1] - peaks[0] - 8 * INPUT <= 8 * SLACK


def test_under_transforms() -> None:
    def peak_of_vmap(count: int) -> int:
        net = pair(wide, count)[1]
        x = torch.randn(4, ROWS, WIDTH, dtype=DTYPE)

        def loss(x: torch.Tensor) -> torch.Tensor:
            return net(x).sum()

        with LiveBytes() as memory:
            torch.vmap(torch.func.grad(lambda x: torch.func.grad(loss)(x).sin().sum()))(x)
        return memory.peak

    # Transforms keep the graph of the last derivative, too.
    assert peak_of_vmap(12) - peak_of_vmap(4) <= 8 * 5 * 4 * INPUT


def test_inputs_are_freed_one_by_one() -> None:
    """And by hooks that take saved tensors elsewhere."""
    elsewhere: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> int:
        elsewhere.append(tensor.clone())
        return len(elsewhere) - 1

    net = pair(wide, 2)[1]
    x = torch.randn(ROWS, WIDTH, dtype=DTYPE, requires_grad=True)
    start = x * 1
    freed = weakref.ref(start)
    with torch.autograd.graph.saved_tensors_hooks(pack, elsewhere.__getitem__):
        value = net(start).sum()
    del start
    assert freed() is None
    value.backward()
    assert x.grad is not None
