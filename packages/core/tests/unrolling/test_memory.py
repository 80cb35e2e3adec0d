"""The memory of every mode grows as its docstring says, counted in live bytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import torchopt
from support.live_bytes import LiveBytes
from support.unrolls import DTYPE
from torchopt.unrolling import (
    ForwardMode,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
    grad,
)

pytestmark = pytest.mark.slow

SIZE = 1000
CARRY = SIZE * DTYPE.itemsize
# A few 0-dim tensors per step, in every mode.
SLACK = 64


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """Reference counts alone must free what is not needed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> tuple[torch.Tensor, None]:
    def loss(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (w * k).sin().exp().square().sum()

    return w - 0.001 * grad(loss)(w, k), None


def learned() -> torch.Tensor:
    return torch.tensor(0.7, dtype=DTYPE, requires_grad=True)


def peak(backward: Strategy, length: int, *, stops: bool = False) -> int:
    """Return the peak of live bytes of an unroll and its derivative with respect to a number."""
    k, start = learned(), torch.ones(SIZE, dtype=DTYPE)
    taken = 0

    def until(carry: Any) -> bool:
        nonlocal taken
        taken += 1
        return taken > length

    options: dict[str, Any] = {'until': until} if stops else {'length': length}
    with LiveBytes() as memory:
        end, _ = torchopt.unroll(step, start, None, k, backward=backward, **options)
        end.sum().backward()
        assert k.grad is not None and k.grad != 0
        del end
        k.grad = None
        assert memory.now == 0, 'something outlives the backward pass'
    return memory.peak


def test_the_count_is_right() -> None:
    with LiveBytes() as memory:
        a = torch.ones(10, dtype=DTYPE)
        b = a + 1
        view = b[2:]
        assert memory.now == 160
        del b
        assert memory.now == 160
        view.add_(a[2:])
        del view
        assert memory.now == 80
    assert memory.peak >= 160


def test_the_plain_graph_keeps_every_step() -> None:
    grown = (peak(Stored(), 30) - peak(Stored(), 10)) / 20
    assert grown > 5 * CARRY


@pytest.mark.parametrize('stops', [False, True])
def test_recomputed_keeps_one_carry_per_step(stops: bool) -> None:
    grown = peak(Recomputed(), 30, stops=stops) - peak(Recomputed(), 10, stops=stops)
    assert 20 * CARRY <= grown <= 20 * (CARRY + SLACK)


@pytest.mark.parametrize('order', ['reverse-over-reverse', 'forward-over-reverse'])
def test_keep_gradients_adds_one_gradient_per_step(order: Any) -> None:
    mode = Recomputed(keep_gradients=True, order=order)
    grown = peak(mode, 30) - peak(mode, 10)
    # Each step keeps its gradient and the value of the loss, in addition to the carry.
    assert 40 * CARRY <= grown <= 40 * (CARRY + SLACK)


@pytest.mark.newer_torch
@pytest.mark.parametrize('count', [1, 3, 8])
@pytest.mark.parametrize('stops', [False, True])
def test_a_number_of_snapshots_bounds_the_number_of_carries(count: int, stops: bool) -> None:
    graph_of_a_step = peak(Recomputed(), 1)
    for length in (15, 45):
        most = peak(Snapshots(count), length, stops=stops)
        assert most <= graph_of_a_step + (count + 1) * (CARRY + SLACK)


@pytest.mark.newer_torch
@pytest.mark.parametrize('stops', [False, True])
def test_snapshots_are_about_the_root_of_the_number_of_steps(stops: bool) -> None:
    graph_of_a_step = peak(Recomputed(), 1)
    for length in (25, 100, 225):
        carries = (peak(Snapshots(), length, stops=stops) - graph_of_a_step) / CARRY
        assert carries <= (3 if stops else 1) * length**0.5 + 2


def test_forward_mode_keeps_no_step() -> None:
    assert peak(ForwardMode(), 10) == peak(ForwardMode(), 60)


@pytest.mark.parametrize('inner', [Stored(), Recomputed(), Snapshots(2)], ids=str)
def test_a_detached_prefix_costs_nothing(inner: Strategy) -> None:
    alone = peak(inner, 5)
    # The last steps begin with a carry that does not belong to the caller.
    assert peak(Truncated(5, inner), 50) <= alone + CARRY
    assert peak(Truncated(5, inner), 50) == peak(Truncated(5, inner), 100)


def test_a_detached_prefix_of_unknown_length_costs_carries_of_the_last_steps() -> None:
    alone = peak(Stored(), 5)
    for length in (50, 100):
        assert peak(Truncated(5), length, stops=True) <= max(alone, 8 * CARRY) + 2 * CARRY


def test_rows_of_gradients_by_xs_are_written_in_place() -> None:
    def with_rows(length: int) -> int:
        xs = torch.ones(length, SIZE, dtype=DTYPE, requires_grad=True)
        with LiveBytes() as memory:
            end, _ = torchopt.unroll(
                lambda w, x, k: ((w * x).sin(), None),
                torch.ones(SIZE, dtype=DTYPE),
                xs,
                backward=Snapshots(3),
            )
            torch.autograd.grad(end.sum(), xs)
        return memory.peak

    assert with_rows(80) - with_rows(20) <= 60 * (CARRY + SLACK) + CARRY


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(3)], ids=str)
def test_without_grad_mode_nothing_is_kept(backward: Strategy) -> None:
    def run(length: int) -> int:
        with LiveBytes() as memory, torch.no_grad():
            torchopt.unroll(
                step,
                torch.ones(SIZE, dtype=DTYPE),
                None,
                learned(),
                length=length,
                backward=backward,
            )
        return memory.peak

    assert run(10) == run(50)


@pytest.mark.newer_torch
@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    'backward', [Recomputed(), Recomputed(keep_gradients=True), Snapshots(3)], ids=str
)
def test_an_error_in_the_backward_pass_leaves_no_gradient_and_no_memory(
    backward: Strategy, error: type[BaseException]
) -> None:
    k, scale, calls = learned(), learned(), 0

    def fails(w: torch.Tensor, x: Any, consts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise error('in the middle')
        return step(w * consts[1], x, consts[0])

    with LiveBytes() as memory:
        w = torch.ones(SIZE, dtype=DTYPE, requires_grad=True)
        end, _ = torchopt.unroll(fails, w, None, (k, scale), length=10, backward=backward)
        loss = end.sum()
        with pytest.raises(error, match='in the middle') as raised:
            loss.backward()
        assert calls == 15
        assert k.grad is None and scale.grad is None and w.grad is None
        raised.value.__traceback__ = None
        del raised
        # The carries are gone, although the graph is still referred to.
        assert memory.now <= 3 * CARRY + SLACK
        with pytest.raises(RuntimeError):
            loss.backward()
        assert k.grad is None
        del end, loss, w
        assert memory.now == 0


def test_a_graph_that_is_dropped_takes_its_carries_along() -> None:
    k = learned()
    for backward in (Recomputed(), Snapshots(3), ForwardMode()):
        with LiveBytes() as memory:
            end, _ = torchopt.unroll(
                step, torch.ones(SIZE, dtype=DTYPE), None, k, length=10, backward=backward
            )
            del end
            assert memory.now == 0
