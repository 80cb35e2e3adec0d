"""Unrolls that tests kill and let go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import torchopt
from support.killed import step_begins
from support.unrolls import problem
from torchopt.unrolling import Disk, Recomputed, Snapshots, Strategy

LENGTH = 12


def gradients(backward: Strategy, **options: Any) -> list[torch.Tensor]:
    example = problem(lambda lr: torchopt.adam(lr), LENGTH)

    def step(carry: Any, x: Any, consts: Any) -> Any:
        step_begins()
        carry, y = example.step(carry, x, consts)
        noise = 0.01 * torch.randn_like(carry[0]['bias'])
        return ({**carry[0], 'bias': carry[0]['bias'] + noise}, *carry[1:]), y

    torch.manual_seed(7)
    example = problem(lambda lr: torchopt.adam(lr), LENGTH)
    noisy = example._replace(step=step)
    carry, ys = noisy.run(backward, **options)
    loss = (
        carry[0]['weight'].square().sum() + 3 * carry[0]['bias'].sum() + ys['loss'].square().sum()
    )
    return [loss, *torch.autograd.grad(loss, noisy.wanted), torch.rand(2)]


def recomputed(folder: Path) -> Any:
    return gradients(Recomputed(storage=Disk(folder)))


def snapshots(folder: Path) -> Any:
    return gradients(Snapshots(3, storage=Disk(folder, every=2)))


def few(folder: Path) -> Any:
    return gradients(Snapshots(storage=Disk(folder)))


def kept(folder: Path) -> Any:
    return gradients(Recomputed(keep_gradients=True, storage=Disk(folder, every=3)))


def until(folder: Path) -> Any:
    return gradients(Snapshots(storage=Disk(folder)), until=lambda carry: carry[2] == 10)


def keep(folder: Path) -> Any:
    return gradients(Recomputed(storage=Disk(folder, keep=True)))
