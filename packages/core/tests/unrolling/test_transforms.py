"""Unrolls under torch.vmap, inside torch.func transforms and in compiled functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import grad, hessian, jvp, vjp, vmap

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt import unrolling
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy, Truncated

NODES = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Snapshots(2),
    ForwardMode(limit=300),
    Truncated(9, Snapshots(1)),
]
every_node = pytest.mark.parametrize('backward', NODES, ids=str)
TASKS, LENGTH = 5, 4


def loss(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (torch.tanh(x @ w) * k).square().sum()


def step(carry: Any, x: torch.Tensor, k: torch.Tensor) -> Any:
    gradient, value = unrolling.grad_and_value(loss)(carry['w'], x, k)
    optimizer = torchopt.adam(0.1)
    updates, state = optimizer.update(gradient, carry['state'], inplace=False)
    w = torchopt.apply_updates(carry['w'], updates, inplace=False)
    return {'w': w, 'state': state, 'count': carry['count'] + 1}, {'loss': value, 'none': None}


def outer(
    backward: Strategy, w: torch.Tensor, xs: torch.Tensor, k: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    carry = {'w': w, 'state': torchopt.adam(0.1).init(w), 'count': 0}
    carry, ys = torchopt.unroll(step, carry, xs, k * scale, backward=backward)
    assert carry['count'] == LENGTH and ys['none'] is None
    assert ys['loss'].shape == (LENGTH,) and carry['w'].shape == w.shape
    return carry['w'].sin().sum() + ys['loss'].square().sum()


def tensors() -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=DTYPE).requires_grad_()

    return [normal(3, TASKS), normal(LENGTH, TASKS, 2, 3), normal(TASKS), normal()]


def mapped(backward: Strategy, in_dims: Any) -> list[torch.Tensor]:
    inputs = tensors()
    chosen = [
        x.select(1 if x.dim() > 1 else 0, 0) if dim is None and x.dim() else x
        for x, dim in zip(inputs, in_dims)
    ]
    total = vmap(lambda *args: outer(backward, *args), in_dims)(*chosen).sum()
    return [total, *torch.autograd.grad(total, inputs)]


@every_node
@pytest.mark.parametrize(
    'in_dims',
    [(1, 1, 0, None), (None, 1, None, None), (1, None, None, None), (None, None, 0, None)],
)
def test_vmap(backward: Strategy, in_dims: Any) -> None:
    assert_equal(mapped(backward, in_dims), mapped(Stored(), in_dims))


@every_node
def test_vmap_in_vmap(backward: Strategy) -> None:
    def gradients(mode: Strategy) -> list[torch.Tensor]:
        inputs = tensors()

        def of_tasks(scale: torch.Tensor) -> torch.Tensor:
            each = vmap(lambda *args: outer(mode, *args), (1, 1, 0, None))
            return each(*inputs[:3], scale).sum()

        total = vmap(of_tasks)(torch.stack([inputs[3], 2 * inputs[3]])).sum()
        return [total, *torch.autograd.grad(total, inputs)]

    assert_equal(gradients(backward), gradients(Stored()))


@every_node
def test_vmap_inside_the_step(backward: Strategy) -> None:
    def gradients(mode: Strategy) -> list[torch.Tensor]:
        w, xs, k, _ = tensors()

        def every_task(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
            return w - 0.1 * vmap(unrolling.grad(loss), (1, 0, 0), 1)(w, x, k), None

        end, _ = torchopt.unroll(every_task, w, xs, k, backward=mode)
        return list(torch.autograd.grad(end.sin().sum(), (w, xs, k)))

    assert_equal(gradients(backward), gradients(Stored()))


@pytest.mark.parametrize('backward', [NODES[0], NODES[2]], ids=str)
@pytest.mark.parametrize('randomness', ['same', 'different'])
def test_random_numbers_under_vmap(backward: Strategy, randomness: str) -> None:
    def noisy(c: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return c * k + torch.rand_like(c), None

    def gradient(mode: Strategy) -> torch.Tensor:
        torch.manual_seed(0)
        k = torch.rand(TASKS, dtype=DTYPE, requires_grad=True)

        def one(k: torch.Tensor) -> torch.Tensor:
            return torchopt.unroll(noisy, k, consts=k, length=3, backward=mode)[0]

        ends = vmap(one, randomness=randomness)(k)
        return torch.autograd.grad(ends.square().sum(), k)[0]

    torch.testing.assert_close(gradient(backward), gradient(Stored()))


@every_node
def test_what_vmap_cannot_do(backward: Strategy) -> None:
    def one(c: torch.Tensor, **options: Any) -> torch.Tensor:
        def double(c: Any, x: Any, k: Any) -> Any:
            return c * 2, None

        return torchopt.unroll(double, c, backward=backward, **options)[0]

    with pytest.raises(RuntimeError, match=r'until.* torch\.vmap'):
        vmap(lambda c: one(c, until=lambda c: c > 3))(torch.ones(2))
    with pytest.raises(RuntimeError, match='maps over none of its arguments'):
        vmap(lambda c: c + one(torch.ones(()), length=2))(torch.ones(2))


def rate_loss(rate: torch.Tensor, backward: Strategy) -> torch.Tensor:
    def descend(w: torch.Tensor, x: Any, rate: torch.Tensor) -> Any:
        return w - rate * unrolling.grad(lambda w: w.sin().sum())(w), None

    start = torch.tensor([0.3, 0.8], dtype=DTYPE)
    return torchopt.unroll(descend, start, consts=rate, length=4, backward=backward)[0].sum()


RATE = torch.tensor(0.2, dtype=DTYPE)


@pytest.mark.parametrize('backward', [Stored(), Truncated(9), Truncated(2)], ids=str)
def test_torch_func(backward: Strategy) -> None:
    def fn(rate: torch.Tensor) -> torch.Tensor:
        return rate_loss(rate, backward)

    rate = RATE.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fn(rate), rate)
    torch.testing.assert_close(grad(fn)(RATE), expected)
    torch.testing.assert_close(vjp(fn, RATE)[1](torch.ones_like(RATE))[0], expected)
    torch.testing.assert_close(jvp(fn, (RATE,), (torch.ones_like(RATE),))[1], expected)
    rates = torch.stack([RATE, 2 * RATE])
    torch.testing.assert_close(vmap(grad(fn))(rates)[0], expected)
    torch.testing.assert_close(grad(lambda rates: vmap(fn)(rates).sum())(rates)[0], expected)
    if backward != Truncated(2):  # a truncated derivative differs from the function's
        torch.autograd.gradcheck(fn, rate)
        torch.autograd.gradcheck(grad(fn), rate)
    assert hessian(fn)(RATE) != 0


@pytest.mark.newer_torch
@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2), ForwardMode()], ids=str)
def test_nodes_refuse_torch_func_and_compile(backward: Strategy) -> None:
    def fn(rate: torch.Tensor) -> torch.Tensor:
        return rate_loss(rate, backward)

    name = type(backward).__name__
    for transformed in (grad(fn), vmap(grad(fn)), lambda r: jvp(fn, (r,), (r,))):
        with pytest.raises(
            RuntimeError, match=rf'{name}\(\.\.\.\)\) cannot run inside torch\.func'
        ):
            transformed(RATE.expand(2) if transformed is not grad else RATE)
    with pytest.raises(Exception, match=r'compile the step instead'):
        torch.compile(fn, backend='eager', fullgraph=True)(RATE)


@pytest.mark.compile
def test_a_compiled_function_contains_the_plain_graph() -> None:
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module

    compiled = torch.compile(
        grad(lambda rate: rate_loss(rate, Stored())), backend=backend, fullgraph=True
    )
    torch.testing.assert_close(compiled(RATE), grad(lambda r: rate_loss(r, Stored()))(RATE))
    assert len(graphs) == 1
