"""Carries in the memory of the host: copies beside the steps, in the right order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import assert_equal, problem
from torchopt.unrolling import Recomputed, Snapshots, Stored, Strategy
from torchopt.unrolling.storage.transfers import Transfers

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
]
LENGTH = 7
Make = Callable[[Any], Strategy]
MAKES: list[Make] = [
    lambda storage: Recomputed(storage=storage),
    lambda storage: Recomputed(keep_gradients=True, storage=storage),
    lambda storage: Snapshots(3, storage=storage),
]


@pytest.mark.parametrize('make', MAKES)
def test_from_a_gpu_to_the_host(make: Make) -> None:
    def on_gpu(tensor: Any) -> Any:
        return tensor.detach().cuda().requires_grad_(tensor.requires_grad)

    example = problem(torchopt.adam, LENGTH, counter=torch.tensor(0))
    leaves, structure = torchopt.pytree.tree_flatten(tuple(example[1:]))
    moved = [on_gpu(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    example = example._replace(
        **dict(zip(example._fields[1:], torchopt.pytree.tree_unflatten(structure, moved)))
    )
    expected = example.gradients(Stored())
    assert_equal(example.gradients(make('cpu')), expected)


@pytest.mark.parametrize('make', MAKES)
def test_copies_on_another_stream_are_in_order(make: Make) -> None:
    """Large carries, and steps so short that a copy is never done in time."""
    torch.manual_seed(0)
    k = torch.rand(1 << 22, device='cuda', requires_grad=True)

    def gradient(backward: Strategy) -> torch.Tensor:
        end, _ = torchopt.unroll(
            lambda c, x, k: ((c * k).sin() + c.cos(), None),
            torch.ones_like(k),
            consts=k,
            length=30,
            backward=backward,
        )
        end.add_(1)  # must not reach what is still being copied
        return torch.autograd.grad(end.sum(), k)[0]

    expected = gradient(make('device'))
    for _ in range(3):
        assert torch.equal(gradient(make('cpu')), expected)


def test_host_memory_frees_the_device() -> None:
    def peak(storage: Any) -> int:
        k = torch.rand(1 << 22, device='cuda', requires_grad=True)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        end, _ = torchopt.unroll(
            lambda c, x, k: ((c * k).sin(), None),
            torch.ones_like(k),
            consts=k,
            length=40,
            backward=Recomputed(storage=storage),
        )
        end.sum().backward()
        return torch.cuda.max_memory_allocated() - before

    assert peak('cpu') < peak('device') / 3


def test_a_transfer_there_and_back() -> None:
    transfers = Transfers()
    tensor = torch.rand(1000, 100, device='cuda').t()
    host = transfers.to_host(tensor)
    back = transfers.to_device(host, tensor.device)
    transfers.wait()
    assert host.is_pinned() and back.stride() == tensor.stride()
    assert torch.equal(back, tensor)
