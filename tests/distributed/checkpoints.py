"""Saves the outer loop on some ranks, and goes on with it on others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import torchopt
from distributed.problem import DTYPE
from support.trees import generator
from torchopt.distributed import StateByName

BEFORE, AFTER = 3, 2


def _schedule() -> Any:
    return torchopt.linear_schedule(0.1, 0.01, 10, 0)


class Net(nn.Module):
    """Five rows, which neither two nor four ranks share equally."""

    def __init__(self) -> None:
        super().__init__()
        source = generator(0)
        w, b = (torch.randn(s, generator=source, dtype=DTYPE) for s in ((5, 3), (5,)))
        if dist.is_initialized():
            ranks = init_device_mesh('cpu', (dist.get_world_size(),))
            w, b = (distribute_tensor(tensor, ranks, [Shard(0)]) for tensor in (w, b))
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)


def _loss(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return w.sin().sum() + b.pow(4).sum()


class Plain:
    """A plain optimizer: torch's own functions for the state of an optimizer."""

    def __init__(self) -> None:
        self.net = Net()
        self.optimizer = torchopt.AdamW(self.net.parameters(), lr=_schedule())

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.optimizer.zero_grad()
            _loss(self.net.w, self.net.b).backward()
            self.optimizer.step()

    def saved(self) -> dict[str, Any]:
        state = get_optimizer_state_dict(self.net, self.optimizer)
        return {'net': self.net.state_dict(), 'optimizer': state}

    def load(self, loaded: dict[str, Any]) -> None:
        self.net.load_state_dict(loaded['net'])
        set_optimizer_state_dict(self.net, self.optimizer, loaded['optimizer'])

    def tensors(self) -> list[torch.Tensor]:
        return [self.net.w, self.net.b]


class Meta:
    """A meta-optimizer, through the view by names."""

    def __init__(self) -> None:
        self.net = Net()
        self.optimizer = torchopt.MetaRMSProp(self.net, lr=_schedule(), momentum=0.9)

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.optimizer.step(_loss(self.net.w, self.net.b))
        torchopt.stop_gradient(self.net)
        torchopt.stop_gradient(self.optimizer)

    def saved(self) -> dict[str, Any]:
        params = {name: param.detach() for name, param in self.net.named_parameters()}
        return {'net': params, 'optimizer': StateByName(self.optimizer)}

    def load(self, loaded: dict[str, Any]) -> None:
        """Both were loaded in place."""

    def tensors(self) -> list[torch.Tensor]:
        return [self.net.w, self.net.b]


class Functional:
    """Parameters and the state of a functional optimizer: one tree."""

    def __init__(self) -> None:
        net = Net()
        params = {'w': net.w.detach(), 'inner': [net.b.detach(), None]}
        self.optimizer = torchopt.chain(
            torchopt.clip_grad_norm(1.0), torchopt.adam(_schedule(), amsgrad=True)
        )
        self.carry = params, self.optimizer.init(params)

    def steps(self, number: int) -> None:
        for _ in range(number):
            params, state = self.carry
            gradients = torchopt.unrolling.grad(lambda p: _loss(p['w'], p['inner'][0]))(
                {**params, 'inner': params['inner'][:1]}
            )
            gradients = {**gradients, 'inner': [*gradients['inner'], None]}
            updates, state = self.optimizer.update(gradients, state, inplace=False)
            self.carry = torchopt.apply_updates(params, updates, inplace=False), state

    def saved(self) -> dict[str, Any]:
        self.view = StateByName(self.carry)
        return {'carry': self.view}

    def load(self, loaded: dict[str, Any]) -> None:
        self.carry = self.view.state

    def tensors(self) -> list[torch.Tensor]:
        params, _ = self.carry
        return [params['w'], params['inner'][0]]


KINDS = (Plain, Meta, Functional)


def save(folder: Path) -> None:
    for kind in KINDS:
        loop = kind()
        loop.steps(BEFORE)
        dcp.save(loop.saved(), checkpoint_id=folder / kind.__name__)


def go_on(folder: Path) -> None:
    """Load on these ranks, or in one process, and compare with a loop that was never stopped."""
    for kind in KINDS:
        loop = kind()
        state = loop.saved()
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'torch.distributed is disabled', UserWarning)
            dcp.load(state, checkpoint_id=folder / kind.__name__)
        loop.load(state)
        loop.steps(AFTER)
        uninterrupted = kind()
        uninterrupted.steps(BEFORE + AFTER)
        for found, expected in zip(loop.tensors(), uninterrupted.tensors(), strict=True):
            assert isinstance(found, DTensor) == dist.is_initialized()
            # The joint norm of all gradients is added up in another order on other ranks.
            rounding = 1e-12 if kind is Functional else 0.0
            torch.testing.assert_close(
                _local(found), _local(expected), rtol=rounding, atol=rounding
            )


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
