"""The reductions with each rank on a GPU of its own, and nccl between them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from distributed.problem import Share, gradients_in_one_process, loss_of_rank, share
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored


def _own() -> Share:
    """This rank's share on this rank's GPU."""
    own = share(dist.get_rank())
    on_gpu = own._replace(
        start={name: leaf.detach().cuda() for name, leaf in own.start.items()},
        **{name: getattr(own, name).detach().cuda() for name in ('lr', 'weights', 'x', 'held_out')},
    )
    for tensor in on_gpu.wanted():
        tensor.requires_grad_()
    return on_gpu


def main(folder: Path) -> None:
    """Compare the gradients of every mode with one process on the CPU."""
    torch.cuda.set_device(dist.get_rank())
    expected = gradients_in_one_process()
    for backward in (Stored(), Recomputed(), Recomputed(keep_gradients=True), Snapshots(2)):
        own = _own()
        found = torch.autograd.grad(loss_of_rank(own, backward), own.wanted())
        torch.testing.assert_close(
            [gradient.cpu() for gradient in found], expected, rtol=1e-9, atol=1e-9
        )
    own = _own()
    for tensor in own.wanted():
        tensor.requires_grad_(tensor is own.lr)
    found = [
        torch.autograd.grad(loss_of_rank(own, backward), own.lr)[0]
        for backward in (ForwardMode(), Recomputed())
    ]
    for gradient in found:
        dist.all_reduce(gradient)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
