"""A step that is run again draws the same numbers, casts alike and updates the same buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt import unrolling
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
)

LENGTH = 7
MODES = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(1),
    Snapshots(3),
    Truncated(LENGTH, Snapshots(2)),
    ForwardMode(),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def dropout_loss(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (F.dropout(x, 0.5) @ torch.tanh(w) * k).square().sum()


def noisy_step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
    gradient, loss = unrolling.grad_and_value(dropout_loss)(w, x, k)
    return w - 0.1 * gradient + 0.01 * k * torch.randn_like(w), loss


def unrolled(backward: Strategy, step: Callable[..., Any] = noisy_step, **options: Any) -> Any:
    """Loss, gradients, and a random number that is drawn after the backward pass."""
    torch.manual_seed(1)
    w = torch.randn(3, dtype=DTYPE, requires_grad=True)
    k = torch.tensor(0.6, dtype=DTYPE, requires_grad=True)
    xs = torch.randn(LENGTH, 4, 3, dtype=DTYPE)
    end, losses = torchopt.unroll(step, w, xs, k, backward=backward, **options)
    loss = end.square().sum() + losses.sum()
    drawn = torch.rand(())
    gradients = torch.autograd.grad(loss, (w, k), materialize_grads=True)
    return [loss.detach(), *gradients], [drawn, torch.rand(())]


@every_mode
def test_random_numbers(backward: Strategy) -> None:
    expected, numbers = unrolled(Stored())
    found, same_numbers = unrolled(backward)
    assert_equal(found, expected)
    # The backward pass leaves the generator where it was.
    assert_equal(same_numbers, numbers)


@pytest.mark.parametrize('backward', [*MODES[:-2], Truncated(9), ForwardMode()], ids=str)
def test_random_numbers_where_the_end_is_not_known(backward: Strategy) -> None:
    calls = 0

    def until(carry: torch.Tensor) -> bool:
        nonlocal calls
        calls += 1
        return calls > 5

    expected, _ = unrolled(Stored(), until=until)
    calls = 0
    found, _ = unrolled(backward, until=until)
    assert_equal(found, expected)


@pytest.mark.parametrize('backward', [Truncated(3), Truncated(3, Snapshots(1))], ids=str)
def test_a_window_that_is_run_again_draws_what_it_drew(backward: Strategy) -> None:
    """With ``until``, the forward pass itself runs the last steps twice."""
    expected, numbers = unrolled(backward)
    found, same_numbers = unrolled(backward, until=lambda carry: False)
    assert_equal(found, expected)
    assert_equal(same_numbers, numbers)


GENERATOR = torch.Generator()


@pytest.mark.parametrize('place', ['GENERATOR', 'own', 'self.own', 'consts'])
def test_generators_that_cannot_be_reset_are_refused(place: str) -> None:
    own = torch.Generator()

    class Step:
        def __init__(self) -> None:
            self.own = own

        def __call__(self, w: torch.Tensor, x: torch.Tensor, k: Any) -> Any:
            return w * k[0] * torch.rand((), generator=self.own), None

    steps = {
        'GENERATOR': lambda w, x, k: (w * k[0] * torch.rand((), generator=GENERATOR), None),
        'own': lambda w, x, k: (w * k[0] * torch.rand((), generator=own), None),
        'self.own': Step(),
        'consts': lambda w, x, k: (w * k[0] * torch.rand((), generator=k[1]), None),
    }
    k = torch.tensor(0.6, requires_grad=True)

    def run(step: Any, **options: Any) -> None:
        torchopt.unroll(step, torch.ones(2), None, (k, torch.Generator()), length=3, **options)

    for backward in (Recomputed(), Snapshots(1)):
        with pytest.raises(RuntimeError, match=rf'torch\.Generator of its own \({place}\)'):
            run(steps[place], backward=backward)
        with torch.no_grad():
            run(steps[place], backward=backward)
    with pytest.raises(RuntimeError, match='of its own'):
        run(steps[place], backward=Truncated(2), until=lambda w: False)
    run(steps[place], backward=Stored())
    run(steps[place], backward=ForwardMode())
    # A generator that the step refers to, but does not draw from, is allowed.
    run(lambda w, x, k: (w * k[0] + (own is GENERATOR), None), backward=Recomputed())


def test_random_numbers_in_the_second_derivative() -> None:
    def second(backward: Strategy) -> torch.Tensor:
        torch.manual_seed(1)
        k = torch.tensor(0.6, dtype=DTYPE, requires_grad=True)
        end, _ = torchopt.unroll(
            noisy_step,
            torch.ones(3, dtype=DTYPE),
            torch.ones(LENGTH, 4, 3, dtype=DTYPE),
            k,
            backward=backward,
        )
        (first,) = torch.autograd.grad(end.sum(), k, create_graph=True)
        return torch.autograd.grad(first, k)[0]

    torch.testing.assert_close(second(Recomputed()), second(Stored()))


@every_mode
def test_autocast(backward: Strategy) -> None:
    dtypes = set()

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        def loss(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            out = x @ w
            dtypes.add(out.dtype)
            return (out * k).float().tanh().square().sum()

        gradient, value = unrolling.grad_and_value(loss)(w, x, k)
        return w - 0.1 * gradient, value

    def gradients(mode: Strategy) -> Any:
        torch.manual_seed(0)
        w, k = torch.randn(3, 2, requires_grad=True), torch.tensor(0.7, requires_grad=True)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            end, losses = torchopt.unroll(step, w, torch.randn(5, 4, 3), k, backward=mode)
            loss = end.square().sum() + losses.sum()
        assert not torch.is_autocast_enabled('cpu')
        found = torch.autograd.grad(loss, (w, k) if not isinstance(mode, ForwardMode) else k)
        assert not torch.is_autocast_enabled('cpu')
        return loss, found

    expected, plain = gradients(Stored())
    loss, found = gradients(backward)
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(loss, expected)
    # 16-bit intermediate results are rounded in another order.
    torch.testing.assert_close(found[-1], plain[-1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('backward', MODES[:-1], ids=str)
def test_autocast_that_the_step_changes(backward: Strategy) -> None:
    """In the derivative, regions without autocast stay exact, and others are cast again."""

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        with torch.autocast('cpu', enabled=False):
            exact = unrolling.grad(lambda w, *, x, k: ((x @ w).tanh() * k).square().mean())
            w = w - 0.1 * exact(w, x=x, k=k) @ w
        with torch.autocast('cpu', dtype=torch.float16):
            cast = unrolling.grad(lambda w, *, x, k: ((x @ w).float().tanh() * k).mean())
            return w - 0.1 * cast(w, x=x, k=k), None

    def gradients(mode: Strategy) -> Any:
        torch.manual_seed(0)
        w, k = torch.randn(16, 16, requires_grad=True), torch.tensor(0.7, requires_grad=True)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            end, _ = torchopt.unroll(step, w, torch.randn(3, 8, 16), k, backward=mode)
        return torch.autograd.grad(end.square().sum(), (w, k))

    torch.testing.assert_close(gradients(backward), gradients(Stored()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('backward', MODES[:-1], ids=str)
def test_buffers_of_batch_norm(backward: Strategy) -> None:
    def gradients(mode: Strategy) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1)
        ).to(DTYPE)
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        weights = torch.rand(8, 1, dtype=DTYPE, requires_grad=True)

        def loss(net: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return (net(x).square() * weights).mean()

        # The bias before BatchNorm has a gradient of rounding errors, which a small eps magnifies.
        step = ModuleStep(net, torchopt.adam(1e-2, eps=1e-4), loss)
        carry, losses = torchopt.unroll(
            step, step.init(), torch.randn(LENGTH, 8, 3, dtype=DTYPE), weights, backward=mode
        )
        assert_equal(list(net.buffers()), list(before.values()))
        outer = losses.sum() + sum(p.square().sum() for p in carry.params.values())
        found = torch.autograd.grad(outer, [*net.parameters(), weights])
        return [*found], carry.buffers

    expected, plain_buffers = gradients(Stored())
    found, buffers = gradients(backward)
    assert_equal(found, expected)
    assert buffers['1.num_batches_tracked'] == LENGTH
    assert buffers.keys() == plain_buffers.keys()
    assert_equal(list(buffers.values()), list(plain_buffers.values()))
