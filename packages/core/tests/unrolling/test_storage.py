"""Carries that are kept elsewhere: the same gradient, in less memory."""

from __future__ import annotations

import enum
import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import torchopt
from support.live_bytes import LiveBytes
from support.ranks import on_ranks
from support.unrolls import DTYPE, assert_equal, problem
from torchopt.unrolling import Disk, Recomputed, Snapshots, Stored, Strategy, Truncated, grad
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage import host
from torchopt.unrolling.storage.encoding import Form, decode, encode
from torchopt.unrolling.storage.identity import update_with_tensor
from torchopt.unrolling.storage.transfers import Transfers

LENGTH = 7
Make = Callable[[Any], Strategy]
MAKES: dict[str, Make] = {
    'recomputed': lambda storage: Recomputed(storage=storage),
    'keep_gradients': lambda storage: Recomputed(keep_gradients=True, storage=storage),
    'forward over reverse': lambda storage: Recomputed(
        keep_gradients=True, order='forward-over-reverse', storage=storage
    ),
    'snapshots': lambda storage: Snapshots(storage=storage),
    'one snapshot': lambda storage: Snapshots(1, storage=storage),
    'truncated': lambda storage: Truncated(LENGTH + 1, Snapshots(2, storage=storage)),
    'compiled': lambda storage: Recomputed(compile='eager', storage=storage),
}
every_mode = pytest.mark.parametrize(
    'make',
    [
        pytest.param(make, id=name, marks=[pytest.mark.compile] if name == 'compiled' else [])
        for name, make in MAKES.items()
    ],
)
# Modes whose steps may count in Python, which a compiled step can't.
eager_modes = pytest.mark.parametrize('make', list(MAKES.values())[:-1], ids=list(MAKES)[:-1])
places = pytest.mark.parametrize('place', ['cpu', 'disk'])


def storage_in(place: str, folder: Path) -> Any:
    return Disk(folder) if place == 'disk' else place


@places
@every_mode
def test_the_same_gradient(make: Make, place: str, tmp_path: Path) -> None:
    example = problem(torchopt.adam, LENGTH, counter=torch.tensor(0))
    found = example.gradients(make(storage_in(place, tmp_path / 'run')))
    assert_equal(found, example.gradients(Stored()))
    assert not (tmp_path / 'run').exists() or not os.listdir(tmp_path / 'run')


@places
@eager_modes
def test_where_the_end_is_not_known(make: Make, place: str, tmp_path: Path) -> None:
    example = problem(length=LENGTH)

    def until(carry: Any) -> bool:
        return carry[2] == 5

    found = example.gradients(make(storage_in(place, tmp_path)), until=until)
    assert_equal(found, example.gradients(Stored(), until=until))


@places
@eager_modes
def test_two_backward_passes_and_none(make: Make, place: str, tmp_path: Path) -> None:
    example = problem(length=LENGTH)
    backward = make(storage_in(place, tmp_path / 'run'))
    loss = example.outer_loss(backward)
    first = torch.autograd.grad(loss, example.wanted, retain_graph=True)
    again = torch.autograd.grad(loss.sin(), example.wanted, retain_graph=True)
    assert_equal([g * loss.detach().cos() for g in first], list(again))
    if place == 'disk':
        assert 'end.pt' in os.listdir(tmp_path / 'run')
    assert_equal(list(torch.autograd.grad(loss, example.wanted)), list(first))
    with pytest.raises(RuntimeError, match='second time'):
        torch.autograd.grad(loss, example.wanted)
    # An older torch does not tell whether a graph is retained.
    if place == 'disk' and hasattr(torch._C._autograd, '_get_current_graph_task_keep_graph'):
        assert not os.listdir(tmp_path / 'run')


def test_a_retained_graph_takes_its_folder_along(tmp_path: Path) -> None:
    example = problem(length=LENGTH)
    for keep in (True, False):
        folder = tmp_path / str(keep)
        loss = example.outer_loss(Snapshots(storage=Disk(folder, keep=keep)))
        found = torch.autograd.grad(loss, example.wanted, retain_graph=True)
        assert list(folder.glob('step-*'))
        del loss
        assert not list(folder.glob('step-*'))
        assert bool(os.listdir(folder)) == keep
        assert_equal(list(found), example.gradients(Stored()))


@places
def test_a_second_derivative(place: str, tmp_path: Path) -> None:
    example = problem(length=4)

    def second(backward: Strategy) -> list[torch.Tensor]:
        first = torch.autograd.grad(example.outer_loss(backward), example.wanted, create_graph=True)
        size: Any = sum(g.square().sum() for g in first)
        return list(torch.autograd.grad(size, example.wanted))

    found = second(Recomputed(storage=storage_in(place, tmp_path)))
    assert_equal(found, second(Stored()))


@places
@eager_modes
def test_under_vmap_and_with_many_cotangents(make: Make, place: str, tmp_path: Path) -> None:
    k = torch.linspace(0.5, 0.9, 3, dtype=DTYPE, requires_grad=True)

    def step(c: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return c - 0.1 * grad(lambda c, k: (c * k).sin().exp().sum())(c, k), None

    def run(backward: Strategy, k: torch.Tensor) -> torch.Tensor:
        return torchopt.unroll(
            step, torch.ones(2, dtype=DTYPE), None, k, length=5, backward=backward
        )[0]

    def mapped(backward: Strategy) -> torch.Tensor:
        return torch.vmap(lambda k: run(backward, k))(k)

    storage = storage_in(place, tmp_path)
    expected = torch.autograd.grad(mapped(Stored()).square().sum(), k)
    assert_equal(list(torch.autograd.grad(mapped(make(storage)).square().sum(), k)), list(expected))
    rows = [
        torch.autograd.grad(
            run(backward, k[0]), k, torch.eye(2, dtype=DTYPE), is_grads_batched=True
        )[0]
        for backward in (Stored(), make(storage))
    ]
    assert_equal(rows[1:], rows[:1])


@every_mode
def test_without_grad_mode_nothing_is_written(make: Make, tmp_path: Path) -> None:
    example = problem(length=LENGTH, counter=torch.tensor(0))
    with torch.no_grad():
        example.run(make(Disk(tmp_path / 'run')))
    assert not (tmp_path / 'run').exists()


@eager_modes
def test_tensors_that_move_come_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but for the copies."""
    moved = 0

    def to_device(self: Transfers, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        nonlocal moved
        moved += 1
        return tensor.clone()

    monkeypatch.setattr(host, 'STAYS', ())
    monkeypatch.setattr(Transfers, 'to_device', to_device)
    example = problem(torchopt.adam, LENGTH)
    assert_equal(example.gradients(make('cpu')), example.gradients(Stored()))
    assert moved > LENGTH


def test_on_the_cpu_nothing_is_copied() -> None:
    """Neither are writes lost that the device's store would refuse."""
    w = torch.ones(1000, dtype=DTYPE, requires_grad=True)

    def peak(storage: Any) -> int:
        with LiveBytes() as memory:
            end, _ = torchopt.unroll(
                lambda c, x, k: ((c * 1.01).sin(), None),
                w,
                length=9,
                backward=Recomputed(storage=storage),
            )
            end.sum().backward()
        return memory.peak

    assert peak('cpu') == peak('device')


def after_a_write(backward: Strategy) -> list[torch.Tensor]:
    """The gradient where somebody writes into a carry between the passes."""
    w, k = torch.full((3,), 2.0, dtype=DTYPE), torch.ones(3, dtype=DTYPE, requires_grad=True)
    carries: list[torch.Tensor] = []
    end, _ = torchopt.unroll(
        lambda c, x, k: ((c * k).sin(), None),
        w,
        consts=k,
        length=4,
        backward=backward,
        progress=lambda taken, carry, y: carries.append(carry),
    )
    carries[1].add_(1)
    return list(torch.autograd.grad(end.sum(), k))


def test_a_write_into_a_carry_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='modified by an in-place operation'):
        after_a_write(Recomputed(storage='cpu'))
    k = torch.ones(3, dtype=DTYPE, requires_grad=True)
    expected = torch.full((3,), 2.0, dtype=DTYPE)
    for _ in range(4):
        expected = (expected * k).sin()
    assert_equal(
        after_a_write(Recomputed(storage=Disk(tmp_path))),
        list(torch.autograd.grad(expected.sum(), k)),
    )


SIZE = 10_000
CARRY = SIZE * DTYPE.itemsize


@pytest.mark.slow
@pytest.mark.parametrize('make', [MAKES['recomputed'], MAKES['snapshots']])
@pytest.mark.parametrize('stops', [False, True])
def test_with_disk_the_memory_does_not_grow(make: Make, stops: bool, tmp_path: Path) -> None:
    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return w - 0.001 * grad(lambda w, k: (w * k).sin().exp().square().sum())(w, k), None

    def peak(backward: Strategy, length: int) -> tuple[int, int]:
        """Return the peak of both passes, and what lives between them."""
        k = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
        options: dict[str, Any] = {'length': length}
        if stops:
            taken = iter(range(length + 1))
            options = {'until': lambda carry: next(taken) == length}
        gc.collect()
        with LiveBytes() as memory:
            start = torch.ones(SIZE, dtype=DTYPE)
            end, _ = torchopt.unroll(step, start, None, k, backward=backward, **options)
            between = memory.now
            end.sum().backward()
        assert k.grad is not None and k.grad != 0
        return memory.peak, between

    alone, _ = peak(Recomputed(), 1)
    for length in (10, 60):
        most, between = peak(make(Disk(tmp_path / str(length))), length)
        assert between <= 2 * CARRY + 24_000  # the first and the last, which the caller holds
        assert most <= alone + 2 * CARRY + 24_000


class Color(enum.Enum):
    RED = 1


def written_and_read(leaves: list[Any], folder: Path, before: list[Any] | None = None) -> list[Any]:
    forms = [Form.of(leaf) for leaf in before or leaves]
    torch.save(encode(leaves, forms), folder / 'leaves')
    return decode(torch.load(folder / 'leaves', weights_only=True), forms)


class Tagged(torch.Tensor):
    pass


def test_leaves_of_every_kind(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    leaves = [
        base,
        base.t(),
        base[:, 1:3],
        base[1],
        torch.tensor(2.0).expand(3, 4),
        torch.arange(3.0)[:, None].expand(3, 5),
        torch.arange(5.0).unfold(0, 3, 1),
        torch.zeros(0, 3),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([True, False]),
        torch.tensor(3),
        torch.randn(3).bfloat16(),
        torch.eye(3).to_sparse(),
        torch.ones(2).as_subclass(Tagged),
        None,
        True,
        7,
        0.5,
        'text',
        b'bytes',
        1 + 2j,
        Color.RED,
        torch.float64,
        torch.Size([2]),
    ]
    found = written_and_read(leaves, tmp_path)
    for old, new in zip(leaves, found, strict=True):
        assert type(old) is type(new)
        if not isinstance(old, torch.Tensor):
            assert old == new
            continue
        assert old.dtype == new.dtype and not new.requires_grad
        if old.layout is torch.strided:
            assert torch.equal(old, new)
            unfolded = old.dim() == 2 and old.stride() == (1, 1)
            assert unfolded or old.stride() == new.stride()
        else:
            assert torch.equal(old.to_dense(), new.to_dense())


def test_a_small_view_does_not_bring_its_base_along(tmp_path: Path) -> None:
    base = torch.zeros(1_000_000)
    halves = [base[:10], base[500_000:].reshape(500, 1000)[:, :2], base[:1].expand(10_000)]
    found = written_and_read(halves, tmp_path)
    assert all(map(torch.equal, halves, found))
    assert (tmp_path / 'leaves').stat().st_size < 20_000
    same = [base, base, base.view(1000, 1000)]
    written_and_read(same, tmp_path)
    assert (tmp_path / 'leaves').stat().st_size < 1.1 * 4e6


def test_what_disk_cannot_keep(tmp_path: Path) -> None:
    def step(c: Any, x: Any, k: Any) -> Any:
        return (c[0] * 2, c[1] * 1j), None

    w = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r'changes to complex .* Disk cannot keep'):
        torchopt.unroll(step, (w, 1j), length=3, backward=Recomputed(storage=Disk(tmp_path)))
    tagged = torch.ones(2).as_subclass(Tagged)
    tagged.tag = 'lost'  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r'Tagged with attributes, which would be lost'):
        written_and_read([tagged], tmp_path)


def test_hashes_take_in_every_kind_of_tensor() -> None:
    def found(tensor: torch.Tensor) -> str:
        result = hashlib.sha256()
        update_with_tensor(result, tensor)
        return result.hexdigest()

    for tensor in (
        torch.tensor([True, False]),
        torch.tensor([1 + 2j, 3 - 1j]),
        torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128).conj(),
        torch.randn(3).bfloat16(),
        torch.arange(6).reshape(2, 3).t(),
        torch.eye(2).to_sparse(),
        torch.tensor(2.0).expand(3),
    ):
        other = tensor.clone()
        assert found(tensor) == found(other)
        if tensor.layout is torch.strided:
            other[0] = 0
            assert found(tensor) != found(other)


@pytest.mark.parametrize('storage', ['disk', 'gpu', None, Disk])
def test_an_unknown_storage(storage: Any) -> None:
    for make in (Recomputed, Snapshots):
        with pytest.raises(ValueError, match=r"storage must be 'device', 'cpu' or Disk\(folder\)"):
            make(storage=storage)
    with pytest.raises(ValueError, match='every must be at least 1'):
        Disk('folder', every=0)


@pytest.mark.newer_torch
@pytest.mark.slow
def test_each_rank_keeps_its_shard(tmp_path: Path) -> None:
    on_ranks(2, 'support.sharded:unroll_sharded', tmp_path)


@pytest.mark.newer_torch
@pytest.mark.slow
def test_ranks_go_on_together(tmp_path: Path) -> None:
    on_ranks(2, 'support.sharded:resume_sharded', tmp_path)


def test_checkpoints_have_no_graph(tmp_path: Path) -> None:
    """A checkpoint that required grad would keep a graph alive."""
    seen: list[Checkpoint] = []

    class Spying(Disk):
        def open(self, loop: Any, circumstances: Any) -> Any:
            session = super().open(loop, circumstances)
            get = session.store.get

            def spied(token: Any) -> Checkpoint:
                seen.append(get(token))
                return seen[-1]

            session.store.get = spied  # type: ignore[method-assign]
            return session

    problem(length=4).gradients(Recomputed(storage=Spying(tmp_path)))
    assert [checkpoint.number for checkpoint in seen] == [3, 2, 1, 0]
    for checkpoint in seen:
        tensors = [leaf for leaf in checkpoint.carry if isinstance(leaf, torch.Tensor)]
        assert tensors and not any(tensor.requires_grad for tensor in tensors)
