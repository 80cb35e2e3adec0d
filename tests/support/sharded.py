"""What ranks do in the tests of distributed checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import torchopt
from torchopt import unrolling
from torchopt.authoring.state import state_from_dict, state_to_dict

Place = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Its parameters are the same on every rank, and placed as ``place`` says."""

    def __init__(self, place: Place = torch.clone) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((8, 3), (8,)))
        self.w, self.b = nn.Parameter(place(w)), nn.Parameter(place(b))


def sharded() -> Place:
    mesh = init_device_mesh('cpu', (dist.get_world_size(),))
    return lambda tensor: distribute_tensor(tensor, mesh, (Shard(0),))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def meta_steps(net: Net, optimizer: Any, number: int) -> None:
    for _ in range(number):
        optimizer.step((net.w * net.w).sum() + (net.b * net.b).sum())


def plain_steps(net: Net, optimizer: Any, number: int) -> None:
    for _ in range(number):
        optimizer.zero_grad()
        ((net.w * net.w).sum() + (net.b * net.b).sum()).backward()
        optimizer.step()


def resumed_meta(folder: Path, place: Place = torch.clone) -> Net:
    """Load what two ranks have saved after three steps, and take two more."""
    net = Net(place)
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    params = {'w': net.w.detach(), 'b': net.b.detach()}
    named = state_to_dict(optimizer.state_dict())
    dcp.load({'params': params, 'optimizer': named}, checkpoint_id=folder / 'meta')
    optimizer.load_state_dict(state_from_dict(optimizer.state_dict(), named))
    meta_steps(net, optimizer, 2)
    return net


def save_and_resume_meta(folder: Path) -> None:
    net = Net(sharded())
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    meta_steps(net, optimizer, 3)
    state = optimizer.state_dict()
    for tupled in ({'optimizer': state}, {'optimizer': optimizer}, {'optimizer': state[0][0]}):
        with pytest.raises(CheckpointException, match='would save one rank'):
            dcp.save(tupled, checkpoint_id=folder / 'refused')
    with pytest.raises(BaseException, match='would save one rank'):
        result = dcp.async_save({'optimizer': state}, checkpoint_id=folder / 'refused')
        getattr(result, 'upload_completion', result).result()
    torch.save(state, folder / f'rank{dist.get_rank()}.pt')  # a file a rank is nothing to refuse
    saved = {'params': {'w': net.w.detach(), 'b': net.b.detach()}}
    dcp.save({**saved, 'optimizer': state_to_dict(state)}, checkpoint_id=folder / 'meta')

    expected = Net()
    meta_steps(expected, torchopt.MetaAdam(expected, lr=0.1), 5)
    again = resumed_meta(folder, sharded())
    torch.testing.assert_close(whole(again.w), expected.w.detach())
    torch.testing.assert_close(whole(again.b), expected.b.detach())


def save_and_resume_plain(folder: Path) -> None:
    """Torch's own functions for optimizers."""
    net = Net(sharded())
    optimizer = torchopt.Adam(net.parameters(), lr=0.1)
    plain_steps(net, optimizer, 3)
    state = get_optimizer_state_dict(net, optimizer)
    params = {'w': net.w.detach(), 'b': net.b.detach()}
    dcp.save({'params': params, 'optimizer': state}, checkpoint_id=folder / 'plain')

    again = Net(sharded())
    other = torchopt.Adam(again.parameters(), lr=0.3)
    named = get_optimizer_state_dict(again, other)
    params = {'w': again.w.detach(), 'b': again.b.detach()}
    dcp.load({'params': params, 'optimizer': named}, checkpoint_id=folder / 'plain')
    set_optimizer_state_dict(again, other, named)
    plain_steps(again, other, 2)

    expected = Net()
    plain_steps(expected, torchopt.Adam(expected.parameters(), lr=0.1), 5)
    torch.testing.assert_close(whole(again.w), expected.w.detach())
    torch.testing.assert_close(whole(again.b), expected.b.detach())


def unroll_sharded(folder: Path) -> None:
    """An unroll over shards, which are kept elsewhere, against one process."""

    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return (w * k).sin() + w, None

    def gradient(place: Place, storage: Any) -> torch.Tensor:
        k = torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(4, 3)
        k = place(k).requires_grad_()
        w = place(torch.ones(4, 3, dtype=torch.float64))
        end, _ = torchopt.unroll(
            step, w, consts=k, length=6, backward=unrolling.Snapshots(2, storage=storage)
        )
        weights = place(torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
        return torch.autograd.grad(end, k, weights)[0]

    expected = gradient(torch.clone, 'device')
    for storage in ('device', 'cpu', unrolling.Disk(folder / 'run', keep=True)):
        found = gradient(sharded(), storage)
        assert isinstance(found, DTensor)
        torch.testing.assert_close(whole(found), expected)
    own = folder / 'run' / f'rank-{dist.get_rank():04}'
    carry = torch.load(own / 'end.pt', weights_only=True)['carry']
    assert [part.shape for leaf in carry for part in leaf] == [(2, 3)]


class Watch:
    """What a step notes; numbers and lists would be a part of the step, whose folder it is."""

    def __init__(self) -> None:
        self.calls, self.stops_at = 0, -1
        self.seen: list[int] = []


def resume_sharded(folder: Path) -> None:
    """Ranks that were interrupted at different steps go on from the same one."""
    place, rank = sharded(), dist.get_rank()
    state = Watch()

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        if int(x) == state.stops_at:
            raise InterruptedError
        state.calls += 1
        return (w * k).sin() + w, None

    def gradient(storage: Any, own: str = '') -> torch.Tensor:
        state.calls, state.seen = 0, []
        k = place(torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(4, 3)).requires_grad_()
        w = place(torch.ones(4, 3, dtype=torch.float64))
        end, _ = torchopt.unroll(
            step,
            w,
            torch.arange(9),
            k,
            # Recomputed compares steps with their first run, which takes all ranks.
            backward=unrolling.Snapshots(9, storage=storage),
            progress=lambda taken, carry, y: reached(taken, own),
        )
        weights = place(torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
        return torch.autograd.grad(end, k, weights)[0]

    def reached(taken: int, own: str) -> None:
        state.seen.append(taken)
        if own == 'backward' and taken == 9:
            state.stops_at = 4 - rank

    expected = gradient('device')
    disk = unrolling.Disk(folder / 'run', every=1)
    state.stops_at = 3 + rank
    with pytest.raises(InterruptedError):
        gradient(disk)
    dist.barrier()
    state.stops_at = -1
    with pytest.raises(InterruptedError):
        gradient(disk, 'backward')
    assert state.seen[0] == 3  # step 2, which is the last that rank 0 has written
    dist.barrier()
    state.stops_at = -1
    found = gradient(disk)
    assert torch.equal(whole(found), whole(expected))
    # The first step, and those of the backward pass that rank 0 has not written.
    assert state.calls == 1 + 5
    assert not (folder / 'run' / f'rank-{rank:04}' / 'run.pt').exists()
