"""Unrolls that tests kill and let go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import torchopt
from support.killed import step_begins
from support.unrolls import DTYPE, problem
from torchopt import unrolling
from torchopt.unrolling import Disk, Recomputed, Snapshots, Strategy

LENGTH = 12


def gradients(backward: Strategy, **options: Any) -> list[torch.Tensor]:
    """Loss and gradients of noisy steps, and numbers that are drawn after them."""
    torch.manual_seed(7)
    example = problem(torchopt.adam, LENGTH)

    def step(carry: Any, x: Any, consts: Any) -> Any:
        step_begins()
        (params, *rest), y = example.step(carry, x, consts)
        bias = params['bias'] + 0.01 * torch.randn_like(params['bias'])
        return ({**params, 'bias': bias}, *rest), y

    noisy = example._replace(step=step)
    loss = noisy.outer_loss(backward, **options)
    drawn = torch.rand(2)
    return [loss, *torch.autograd.grad(loss, noisy.wanted), drawn, torch.rand(2)]


def recomputed(folder: Path) -> Any:
    return gradients(Recomputed(storage=Disk(folder)))


def recomputed_and_kept(folder: Path) -> Any:
    return gradients(Recomputed(storage=Disk(folder, keep=True)))


def with_gradients(folder: Path) -> Any:
    return gradients(Recomputed(keep_gradients=True, storage=Disk(folder, every=3)))


def snapshots(folder: Path) -> Any:
    return gradients(Snapshots(storage=Disk(folder)))


def snapshots_and_kept(folder: Path) -> Any:
    return gradients(Snapshots(3, storage=Disk(folder, every=2, keep=True)))


def until(folder: Path) -> Any:
    return gradients(Snapshots(storage=Disk(folder)), until=lambda carry: carry[2] == 10)


class Warming(nn.Module):
    """Its output depends on a count of its calls, a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=DTYPE).reshape(3, 2))
        self.norm = nn.BatchNorm1d(2, dtype=DTYPE)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        dropped = nn.functional.dropout(x, 0.3)
        return self.norm(dropped @ self.weight) * (1 - 0.5**self.calls)


def module(folder: Path) -> Any:
    """Dropout, BatchNorm and a counter, and no y but the loss; two backward passes."""
    torch.manual_seed(3)
    net = Warming()
    weights = torch.linspace(0.5, 1.5, 8, dtype=DTYPE).requires_grad_()

    def loss(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        step_begins()
        return (weights * (net(x).sum(-1) - 1).square()).mean()

    inner = unrolling.ModuleStep(net, torchopt.sgd(0.1, momentum=0.9), loss)
    xs = torch.randn(8, 8, 3, dtype=DTYPE)
    backward = Recomputed(storage=Disk(folder))
    end, losses = torchopt.unroll(inner, inner.init(), xs, weights, backward=backward)
    calls = net.calls
    outer = losses.sum() + end.params['weight'].square().sum()
    first = torch.autograd.grad(outer, weights, retain_graph=True)
    second = torch.autograd.grad(outer.exp(), weights)
    return [outer, torch.tensor(calls), *first, *second, *end.buffers.values(), torch.rand(2)]
