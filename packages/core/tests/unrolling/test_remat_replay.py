"""What a block of ``remat`` depends on beside its arguments: replayed, or written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchopt
from support.blocks import DTYPE, WIDTH, Residual, assert_equal, pair
from torchopt import unrolling
from torchopt.unrolling import (
    ForwardMode,
    ModuleStep,
    Recomputed,
    Snapshots,
    Stored,
    Strategy,
    Truncated,
    remat,
)

MODES: list[Strategy] = [
    Stored(),
    Recomputed(),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(1),
    Truncated(4, Snapshots(2)),
    ForwardMode(),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def second(net: Callable[..., Any], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """A loss, and a second derivative of it, from the same random numbers."""
    torch.manual_seed(3)
    value = net(*inputs).sin().sum()
    first = torch.autograd.grad(value, inputs, create_graph=True)
    drawn = torch.rand(())
    result = torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
    return [value.detach(), *result, drawn, torch.rand(())]


class Noisy(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(x, 0.4, self.training)) * torch.rand_like(x)


def test_random_numbers() -> None:
    plain, rematerialized = pair(Noisy)
    x = torch.randn(3, WIDTH, dtype=DTYPE, requires_grad=True)
    assert_equal(second(rematerialized, x), second(plain, x))


@pytest.mark.parametrize('randomness', ['same', 'different'])
@pytest.mark.parametrize('mapped', ['input', 'weight', 'both'])
def test_random_numbers_under_vmap(randomness: str, mapped: str) -> None:
    """Also where a block's input is not mapped, but its cotangent is."""
    plain, rematerialized = pair(Noisy, count=2)
    x = torch.randn(3, WIDTH, dtype=DTYPE)
    x = x.expand(2, 3, WIDTH) * 1.0 if mapped != 'weight' else x
    weight = torch.ones(2, dtype=DTYPE) if mapped != 'input' else torch.tensor(2.0, dtype=DTYPE)
    dims = (0 if mapped != 'weight' else None, 0 if mapped != 'input' else None)

    def gradient(net: nn.Module) -> torch.Tensor:
        def of_gradient(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            def loss(x: torch.Tensor) -> torch.Tensor:
                return (weight * net(x).sin()).sum()

            return torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)

        torch.manual_seed(5)
        result: torch.Tensor = torch.vmap(of_gradient, dims, randomness=randomness)(x, weight)
        return result

    if mapped == 'weight' and randomness == 'different':
        # The plain block draws other numbers for each, which a block without mapped inputs can't.
        with pytest.raises(RuntimeError, match='none of its arguments is mapped'):
            gradient(rematerialized)
        return
    assert_equal([gradient(rematerialized)], [gradient(plain)])


@every_mode
def test_random_numbers_in_every_mode(backward: Strategy) -> None:
    def run(net: nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(1)
        k = torch.tensor(0.6, dtype=DTYPE, requires_grad=True)

        def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
            return w - 0.1 * unrolling.grad(lambda w, k: (k * net(w * x)).square().sum())(
                w, k
            ), None

        xs = torch.randn(4, WIDTH, dtype=DTYPE)
        end, _ = torchopt.unroll(step, torch.ones(WIDTH, dtype=DTYPE), xs, k, backward=backward)
        value = end.square().sum()
        drawn = torch.rand(())
        return [value.detach(), *torch.autograd.grad(value, k), drawn, torch.rand(())]

    plain, rematerialized = pair(Noisy, count=2)
    for param in plain.parameters():
        param.requires_grad_(False)
    assert_equal(run(rematerialized), run(plain))


def test_autocast() -> None:
    """The backward pass runs outside of autocast, and the block within."""
    linear = nn.Linear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)

    def gradients(net: nn.Module) -> list[torch.Tensor]:
        with torch.autocast('cpu', torch.bfloat16):
            out = net(x)
        assert out.dtype == torch.bfloat16
        wanted = (x, *linear.parameters())
        first = torch.autograd.grad(out.float().square().sum(), wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)]

    for found, expected in zip(gradients(remat(linear)), gradients(linear)):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7 * expected.max().item())


class Counting(nn.Module):
    """Writes one buffer in place, assigns another, and reads a third."""

    count: torch.Tensor
    last: torch.Tensor
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer('count', torch.zeros((), dtype=torch.int64))
        self.register_buffer('last', torch.zeros(WIDTH))
        self.register_buffer('mask', torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        out = self.linear(self.norm(x)) * self.mask * self.count
        self.last = out.detach().mean(0)
        return torch.tanh(out)


def test_buffers_are_written_once() -> None:
    x = torch.randn(5, WIDTH, dtype=DTYPE, requires_grad=True)
    results = []
    for number in range(2):
        net = pair(Counting)[number]
        last = net[0].module.last if number else net[0].last
        gradients = [*second(net, x)[:-2], *second(net, x)[:-2]]
        buffers = {name.replace('module.', ''): buffer for name, buffer in net.named_buffers()}
        assert buffers['0.count'] == 2
        assert buffers['0.last'] is not last
        results.append([*gradients, *buffers.values()])
    assert_equal(results[1], results[0])


@pytest.mark.parametrize('backward', MODES[:-1], ids=str)
def test_buffers_of_a_module_step(backward: Strategy) -> None:
    def run(net: nn.Module) -> list[torch.Tensor]:
        weights = torch.ones(5, dtype=DTYPE, requires_grad=True)
        inner = ModuleStep(
            net, torchopt.adam(1e-2), lambda net, x, w: (w * net(x).square().sum(-1)).mean()
        )
        xs = torch.randn(4, 5, WIDTH, dtype=DTYPE, generator=torch.manual_seed(0))
        carry, losses = torchopt.unroll(inner, inner.init(), xs, weights, backward=backward)
        return [
            *torch.autograd.grad(losses.sum(), weights),
            *(buffer.detach() for buffer in carry.buffers.values()),
        ]

    plain, rematerialized = pair(Counting, count=2)
    assert_equal(run(rematerialized), run(plain))


def test_a_buffer_that_learns() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer('scale', torch.full((), 2.0, dtype=DTYPE, requires_grad=True))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.scale).sin()

    net = Scaled()
    x = torch.randn(3, dtype=DTYPE, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(remat(net)(x).sum(), x, create_graph=True)
    assert_equal(
        torch.autograd.grad(found.sum(), net.buffers()),
        torch.autograd.grad(expected.sum(), net.buffers()),
    )


def test_modes_of_modules() -> None:
    """``eval()`` between the passes, and a dropout that is switched off, change nothing."""
    plain, rematerialized = pair(Noisy, count=2)
    x = torch.randn(3, WIDTH, dtype=DTYPE, requires_grad=True)
    expected = second(plain, x)
    torch.manual_seed(3)
    value = rematerialized(x).sin().sum()
    rematerialized.eval()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    assert not rematerialized[0].module.training
    rematerialized.train()
    assert_equal(torch.autograd.grad(first.square().sum(), x), expected[1:2])


def test_a_parameter_that_the_block_does_not_use() -> None:
    """It has no gradient, not a gradient of zero, by which weight decay would change it."""

    class Partly(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(2))

    for net in pair(Partly, count=2):
        inner = ModuleStep(
            net, torchopt.adamw(0.1, weight_decay=0.5), lambda net, x, _: net(x).square().sum()
        )
        x = torch.ones(1, 2, WIDTH, dtype=DTYPE)
        carry, _ = torchopt.unroll(inner, inner.init(), x)
        name = next(name for name in carry.params if name.endswith('unused'))
        assert carry.params[name].equal(torch.ones(2, dtype=DTYPE))
        (found,) = torch.autograd.grad(
            net(x[0]).sum(), next(p for p in net.parameters() if p.shape == (2,)), allow_unused=True
        )
        assert found is None


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(WIDTH, WIDTH)
            self.two = nn.Linear(WIDTH, WIDTH)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.two(torch.tanh(self.one(x)))

    plain, rematerialized = pair(Tied, count=2)
    x = torch.randn(3, WIDTH, dtype=DTYPE, requires_grad=True)
    results = []
    for net in (plain, rematerialized):
        assert len(list(net.parameters())) == 6
        wanted = [x, *net.parameters()]
        first = torch.autograd.grad(net(x).sum(), wanted, create_graph=True)
        results.append(
            torch.autograd.grad(
                sum(g.square().sum() for g in first), wanted, materialize_grads=True
            )
        )
    assert_equal(results[1], results[0])


def test_recurrent_layers() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.cell(x)[0]
            return result

    plain, rematerialized = pair(Recurrent, count=2)
    x = torch.randn(2, 3, WIDTH, dtype=DTYPE, requires_grad=True)
    assert_equal(second(rematerialized, x), second(plain, x))
    # The module computes with its own weights again.
    with torch.no_grad():
        for param in plain.parameters():
            param.zero_()
        assert not plain(x).any()


def test_attention_has_second_derivatives() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(2, 5, WIDTH, dtype=DTYPE, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = second(Attention(), x)
    assert_equal(second(remat(Attention()), x), expected)


@pytest.mark.parametrize('stop', ['no_grad', 'detach'])
@every_mode
def test_parts_without_a_derivative(backward: Strategy, stop: str) -> None:
    def block(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        if stop == 'detach':
            return x * (k * x).sin().detach() * k
        with torch.no_grad():
            scale = (k * x).sin()
        return x * scale * k

    def run(block: Callable[..., Any]) -> list[torch.Tensor]:
        k = torch.tensor(0.6, dtype=DTYPE, requires_grad=True)

        def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
            gradient = unrolling.grad(lambda w, k: block(w * x, k).square().sum())(w, k)
            with torch.no_grad():
                # A gradient whose derivative is not wanted.
                shift = unrolling.grad(lambda w, k: block(w * x, k).square().sum())(w, k)
            return block(w, k) - 0.1 * gradient + shift, None

        xs = torch.randn(4, 3, dtype=DTYPE, generator=torch.manual_seed(0))
        end, _ = torchopt.unroll(step, torch.ones(3, dtype=DTYPE), xs, k, backward=backward)
        return list(torch.autograd.grad(end.square().sum(), k))

    assert_equal(run(remat(block)), run(block))
