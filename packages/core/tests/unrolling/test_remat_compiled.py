"""``remat(block, compile=...)``: the same derivatives, compiled once for all blocks alike."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchopt
from support.blocks import DTYPE, WIDTH, Residual, assert_equal, pair
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored, Strategy, remat

pytestmark = pytest.mark.compile


class Backend:
    """Runs what it is given, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph


def second(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    wanted = [*net.parameters(), *([x] if x.requires_grad else [])]
    first = torch.autograd.grad(net(x).sin().sum(), wanted, create_graph=True)
    return list(torch.autograd.grad(sum(g.sin().sum() for g in first), wanted))


def test_one_graph_for_each_derivative_of_all_blocks() -> None:
    """Whatever is needed of the first block, and in all steps."""
    backend = Backend()
    plain, compiled = pair(count=4, compile=backend)
    for step in range(3):
        x = torch.randn(5, WIDTH, dtype=DTYPE)
        assert_equal(second(compiled, x), second(plain, x))
        # The vjp, and the vjp of the vjp.
        assert backend.graphs == 2, step
    x = torch.randn(6, WIDTH, dtype=DTYPE, requires_grad=True)
    assert_equal(second(compiled, x), second(plain, x))
    assert backend.graphs == 4


class Switched(Residual):
    def __init__(self, sign: float = 1.0, number: int = 0) -> None:
        super().__init__()
        self.sign = sign
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 1 if self.training else 2
        kind = 3 if isinstance(self.number, float) else 1
        return super().forward(x) * self.sign * scale * kind


def test_blocks_that_differ_get_graphs_of_their_own() -> None:
    backend = Backend()
    blocks = [Switched(), Switched(), Switched(-1.0), Switched(number=0.0)]  # type: ignore[arg-type]
    blocks = [block.to(DTYPE) for block in blocks]
    compiled = nn.Sequential(*(remat(block, compile=backend) for block in blocks))
    x = torch.randn(5, WIDTH, dtype=DTYPE)
    assert_equal(second(compiled, x), second(nn.Sequential(*blocks), x))
    assert backend.graphs == 6
    blocks[1].eval()
    assert_equal(second(compiled, x), second(nn.Sequential(*blocks), x))
    assert backend.graphs == 8
    blocks[1].sign = -3.0
    assert_equal(second(compiled, x), second(nn.Sequential(*blocks), x))
    assert backend.graphs == 10


def test_the_mode_of_the_first_run_counts() -> None:
    block = Switched().to(DTYPE)
    x = torch.randn(5, WIDTH, dtype=DTYPE, requires_grad=True)
    (expected,) = torch.autograd.grad(block(x).sum(), x)
    value = remat(block, compile=Backend())(x).sum()
    block.eval()
    assert_equal(torch.autograd.grad(value, x), [expected])


def test_a_template_holds_no_memory_of_the_first_block() -> None:
    block = Residual().to(DTYPE)
    weight = weakref.ref(block.up.weight)
    second(remat(block, compile=Backend()), torch.ones(2, WIDTH, dtype=DTYPE))
    del block
    assert weight() is None


@pytest.mark.parametrize('backward', [Stored(), Recomputed(), Snapshots(2)], ids=str)
def test_modes_of_unroll(backward: Strategy) -> None:
    def meta(net: nn.Module) -> list[torch.Tensor]:
        weights = torch.ones(3, dtype=DTYPE, requires_grad=True)
        inner = ModuleStep(
            net, torchopt.adam(1e-2), lambda net, x, w: (w * net(x).square().mean(-1)).sum()
        )
        xs = torch.randn(4, 3, WIDTH, dtype=DTYPE, generator=torch.manual_seed(1))
        _, losses = torchopt.unroll(inner, inner.init(), xs, weights, backward=backward)
        return list(torch.autograd.grad(losses.sum(), weights))

    backend = Backend()
    plain, compiled = pair(count=2, compile=backend)
    assert_equal(meta(compiled), meta(plain))
    assert 2 <= backend.graphs <= 3


def loss_of(net: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: net(x).sin().sum()


def test_one_transform() -> None:
    plain, compiled = pair(count=2, compile='aot_eager')
    x = torch.randn(3, WIDTH, dtype=DTYPE, requires_grad=True)
    results = []
    for net in (plain, compiled):
        first = torch.func.grad(loss_of(net))(x)
        results.append([first, *torch.autograd.grad(first.sin().sum(), x)])
    assert_equal(results[1], results[0])


TRANSFORMS: dict[str, Callable[..., Any]] = {
    'vmap': torch.vmap,
    'grad of grad': lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).sum()),
    'jvp': lambda f: lambda x: torch.func.jvp(f, (x,), (x,)),
    'vmap of grad': lambda f: torch.vmap(torch.func.grad(f)),
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_other_transforms_are_refused(name: str) -> None:
    net = remat(Residual().to(DTYPE), compile='aot_eager')
    with pytest.raises(RuntimeError, match=r'not under torch\.vmap'):
        TRANSFORMS[name](loss_of(net))(torch.ones(2, WIDTH, dtype=DTYPE))


def test_arguments_and_several_results() -> None:
    def block(x: dict[str, torch.Tensor], power: int, *, scale: torch.Tensor) -> Any:
        return [x['a'] ** power * scale, {'b': (x['a'] * x['b']).sum(), 'none': None}]

    def derivatives(block: Callable[..., Any]) -> list[torch.Tensor]:
        a, b, scale = (torch.arange(1.0, 3.0, dtype=DTYPE, requires_grad=True) for _ in range(3))
        found = []
        for power in (2, 3):
            one, two = block({'a': a, 'b': b}, power, scale=scale)
            for value in (one.sum(), two['b'], one.sum() * two['b']):
                (first,) = torch.autograd.grad(value, a, create_graph=True)
                found += torch.autograd.grad(
                    first.sin().sum(), (a, b, scale), materialize_grads=True
                )
        return found

    assert_equal(derivatives(remat(block, compile='aot_eager')), derivatives(block))


def test_autocast() -> None:
    linear = nn.Linear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)

    def gradients(net: Any) -> list[torch.Tensor]:
        with torch.autocast('cpu', torch.bfloat16):
            out = net(x)
        assert out.dtype == torch.bfloat16
        wanted = (x, *linear.parameters())
        first = torch.autograd.grad(out.float().square().sum(), wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)]

    found, expected = gradients(remat(linear, compile='aot_eager')), gradients(linear)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=2**-6, atol=2**-6 * b.abs().max().item())


def test_buffers() -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH)
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(self.norm(self.linear(x)))

    x = torch.randn(6, WIDTH, dtype=DTYPE, requires_grad=True)
    results = []
    for number in range(2):
        net = pair(Normalized, 2, compile='aot_eager')[number]
        results.append([*second(net, x), *net.buffers()])
    assert_equal(results[1], results[0])


@pytest.mark.parametrize('kind', ['random', 'captured', 'many cotangents'])
def test_what_is_refused(kind: str) -> None:
    mask = torch.ones(WIDTH, dtype=DTYPE)
    blocks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        'random': F.dropout,
        'captured': lambda x: x * mask,
        'many cotangents': torch.sin,
    }

    x = torch.ones(WIDTH, dtype=DTYPE, requires_grad=True)
    message = {
        'random': 'cannot compile a block that uses random numbers',
        'captured': 'cannot compile a block that uses the tensor mask',
        'many cotangents': 'one cotangent at a time',
    }
    with pytest.raises(RuntimeError, match=message[kind]):
        out = remat(blocks[kind], compile='aot_eager')(x)
        torch.autograd.grad(out, x, torch.eye(WIDTH, dtype=DTYPE), is_grads_batched=True)


@pytest.mark.slow
def test_inductor() -> None:
    plain, compiled = pair(count=2, compile=True)
    x = torch.randn(5, WIDTH, dtype=DTYPE, requires_grad=True)
    assert_equal(second(compiled, x), second(plain, x))
