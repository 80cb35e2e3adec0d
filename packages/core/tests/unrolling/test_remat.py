"""``remat`` gives the derivatives of the plain block, to any order and under every transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fa
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
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    Truncated(3, Stored()),
    Truncated(5, Snapshots(2)),
    ForwardMode(limit=100),
]


def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net(x).sin().square().sum()


def powers(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum((gradient.sin() for gradient in map(torch.sum, gradients)), torch.zeros(()))


@pytest.mark.parametrize('order', [1, 2, 3, 4])
def test_reverse_mode(order: int) -> None:
    def derivative(net: nn.Module) -> Any:
        x = torch.linspace(-1, 1, 3 * WIDTH, dtype=DTYPE).view(3, WIDTH).requires_grad_()
        wanted = [x, *net.parameters()]
        value = loss_of(net, x)
        for number in range(order):
            gradients = torch.autograd.grad(value, wanted, create_graph=number < order - 1)
            value = powers(gradients)
        return list(gradients)

    plain, rematerialized = pair()
    assert_equal(derivative(rematerialized), derivative(plain))


def functional(net: nn.Module) -> tuple[Callable[..., torch.Tensor], dict[str, torch.Tensor]]:
    params = {name: param.detach() for name, param in net.named_parameters()}

    def loss(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, params, (x,)).sin().square().sum()

    return loss, params


def meta(gradient: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """A loss of gradients by the parameters."""

    def value(params: Any, x: torch.Tensor) -> torch.Tensor:
        return powers(torchopt.pytree.tree_leaves(gradient(params, x)))

    return value


func = torch.func
TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    'grad': lambda loss: func.grad(loss),
    'unrolling.grad': lambda loss: unrolling.grad(loss),
    'grad of grad': lambda loss: func.grad(meta(func.grad(loss)), (0, 1)),
    'grad of unrolling.grad': lambda loss: func.grad(meta(unrolling.grad(loss)), (0, 1)),
    'vmap of grad': lambda loss: torch.vmap(func.grad(loss), (None, 0)),
    'grad of vmap': lambda loss: func.grad(meta(torch.vmap(loss, (None, 0)))),
    'grad of vmap of grad': lambda loss: func.grad(meta(torch.vmap(func.grad(loss), (None, 0)))),
    'vmap of grad of grad': lambda loss: torch.vmap(
        func.grad(meta(func.grad(loss)), (0, 1)), (None, 0)
    ),
    'jvp': lambda loss: lambda p, x: func.jvp(lambda x: loss(p, x), (x,), (x,)),
    'jvp of grad': lambda loss: (
        lambda p, x: func.jvp(lambda x: func.grad(loss)(p, x), (x,), (x.cos(),))
    ),
    'hessian': lambda loss: func.hessian(loss, 1),
    'jacrev of jacfwd': lambda loss: func.jacrev(func.jacfwd(loss, 1), 1),
    'jacfwd of jacfwd': lambda loss: func.jacfwd(func.jacfwd(loss, 1), 1),
    'jacrev of jacrev': lambda loss: func.jacrev(func.jacrev(loss, 1), 1),
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_transforms(name: str) -> None:
    x = torch.linspace(-1, 1, 2 * WIDTH, dtype=DTYPE).view(2, WIDTH)
    results = []
    for net in pair(count=2):
        loss, params = functional(net)
        found: Any = TRANSFORMS[name](loss)(params, x)
        results.append(torchopt.pytree.tree_leaves(found))
    assert_equal(results[1], results[0])


def test_many_cotangents_at_once() -> None:
    def jacobians(net: nn.Module) -> list[torch.Tensor]:
        x = torch.ones(WIDTH, dtype=DTYPE, requires_grad=True)
        eye = torch.eye(WIDTH, dtype=DTYPE)
        first = torch.autograd.grad(net(x), x, eye, is_grads_batched=True)
        (gradient,) = torch.autograd.grad(net(x).sin().sum(), x, create_graph=True)
        return [*first, *torch.autograd.grad(gradient, x, eye, is_grads_batched=True)]

    plain, rematerialized = pair(count=2)
    assert_equal(jacobians(rematerialized), jacobians(plain))


def test_dual_tensors() -> None:
    def tangents(net: nn.Module) -> list[torch.Tensor]:
        x = torch.linspace(-1, 1, WIDTH, dtype=DTYPE)
        with fa.dual_level():
            moving: Any = fa.make_dual(x.clone().requires_grad_(), x.cos())
            out: Any = fa.unpack_dual(net(moving))
            over: Any = fa.unpack_dual(torch.autograd.grad(loss_of(net, moving), moving)[0])
        return [out.primal.detach(), out.tangent.detach(), over.primal, over.tangent]

    plain, rematerialized = pair(count=2)
    assert_equal(tangents(rematerialized), tangents(plain))


def test_gradcheck() -> None:
    _, net = pair(count=2)
    x = torch.randn(2, WIDTH, dtype=DTYPE, requires_grad=True)
    assert torch.autograd.gradcheck(net, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(net, x, check_fwd_over_rev=True)


def test_trees_and_constants() -> None:
    @remat
    def block(pair: dict[str, torch.Tensor], power: int, *, scale: torch.Tensor, on: bool) -> Any:
        a, b = pair['a'], pair['b']
        return {'one': (a * scale) ** power, 'two': [b.sum() if on else a, None], 'ids': a.argmax()}

    a, b = (torch.arange(1.0, 4.0, dtype=DTYPE, requires_grad=True) for _ in range(2))
    scale = torch.tensor(2.0, dtype=DTYPE, requires_grad=True)
    found = block({'a': a, 'b': b}, 3, scale=scale, on=True)
    assert found['two'][1] is None and found['ids'].item() == 2
    assert not found['ids'].requires_grad
    total = found['one'].sum() + found['two'][0] ** 2
    first = torch.autograd.grad(total, (a, b, scale), create_graph=True)
    torch.testing.assert_close(first[0], 3 * a**2 * 8)
    torch.testing.assert_close(first[1], torch.full_like(b, 12.0))
    (second,) = torch.autograd.grad(first[0].sum(), scale)
    torch.testing.assert_close(second, (9 * a**2 * 4).sum())


def test_one_of_several_results_is_used() -> None:
    a, b = (torch.tensor(float(i), dtype=DTYPE, requires_grad=True) for i in (2, 3))
    x, y = remat(lambda a, b: (a**3, a * b))(a, b)
    (first,) = torch.autograd.grad(x, a, create_graph=True)
    assert torch.autograd.grad(first, a)[0] == 12
    assert torch.autograd.grad(
        remat(lambda a, b: (a**3, a * b))(a, b)[0], b, allow_unused=True
    ) == (None,)
    assert torch.autograd.grad(y, b)[0] == 2


def test_results_that_are_arguments_or_views_of_them() -> None:
    def block(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return x, x.view(-1), x.detach()

    def value(block: Callable[..., Any]) -> list[torch.Tensor]:
        x = torch.randn(2, 2, dtype=DTYPE, generator=torch.manual_seed(0), requires_grad=True)
        a, b, c = block(x)
        assert not c.requires_grad
        return list(torch.autograd.grad((a.view(-1) * b * c.view(-1)).sum(), x))

    assert_equal(value(remat(block)), value(block))


def test_nested() -> None:
    plain, rematerialized = pair(count=2)
    x = torch.randn(2, WIDTH, dtype=DTYPE, requires_grad=True)

    def second(net: nn.Module) -> list[torch.Tensor]:
        wanted = [x, *net.parameters()]
        value = powers(torch.autograd.grad(loss_of(net, x), wanted, create_graph=True))
        return list(torch.autograd.grad(value, wanted))

    assert_equal(second(remat(rematerialized)), second(plain))


def meta_gradients(net: nn.Module, backward: Strategy, **options: Any) -> list[torch.Tensor]:
    weights = torch.linspace(0.5, 1.5, 3, dtype=DTYPE).requires_grad_()

    def loss(net: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (weights * net(x).square().mean(-1)).sum()

    inner = ModuleStep(net, torchopt.adam(1e-2, **options), loss)
    start = inner.init()
    if isinstance(backward, ForwardMode):
        start = torchopt.pytree.tree_map(torch.Tensor.detach, start)
    xs = torch.randn(5, 3, WIDTH, dtype=DTYPE, generator=torch.manual_seed(1))
    carry, losses = torchopt.unroll(inner, start, xs, weights, backward=backward)
    outer = sum(param.square().sum() for param in carry.params.values()) + losses.sum()
    wanted = [weights]
    if not isinstance(backward, ForwardMode):
        wanted += start.params.values()
    return list(torch.autograd.grad(outer, wanted, materialize_grads=True))


@pytest.mark.parametrize('backward', MODES, ids=str)
def test_every_mode_of_unroll(backward: Strategy) -> None:
    plain, rematerialized = pair(count=2)
    assert_equal(meta_gradients(rematerialized, backward), meta_gradients(plain, backward))


@pytest.mark.parametrize('backward', [Stored(), Recomputed(), Snapshots(2)], ids=str)
def test_with_fused_optimizers(backward: Strategy) -> None:
    if not torchopt.accelerated_op_available(torch.device('cpu')):
        pytest.skip('needs torchopt-accel')
    plain, rematerialized = pair(count=2)
    found = meta_gradients(rematerialized, backward, use_accelerated_op=True)
    assert_equal(found, meta_gradients(plain, backward))


def test_differentiated_again_after_unroll() -> None:
    def third(net: nn.Module) -> list[torch.Tensor]:
        lr = torch.tensor(0.1, dtype=DTYPE, requires_grad=True)

        def step(w: torch.Tensor, x: torch.Tensor, lr: torch.Tensor) -> Any:
            return w - lr * unrolling.grad(lambda w: net(w * x).square().sum())(w), None

        for param in net.parameters():
            param.requires_grad_(False)
        w = torch.linspace(-1, 1, WIDTH, dtype=DTYPE)
        end, _ = torchopt.unroll(
            step, w, torch.ones(2, WIDTH, dtype=DTYPE), lr, backward=Recomputed()
        )
        (first,) = torch.autograd.grad(end.square().sum(), lr, create_graph=True)
        return list(torch.autograd.grad(first, lr))

    plain, rematerialized = pair(count=1)
    assert_equal(third(rematerialized), third(plain))


def test_chunked_cross_entropy() -> None:
    """The recipe of the docs: no logits of all tokens, in no derivative."""
    hidden = torch.randn(10, WIDTH, dtype=DTYPE, generator=torch.manual_seed(0), requires_grad=True)
    weight = torch.randn(7, WIDTH, dtype=DTYPE, requires_grad=True)
    targets = torch.arange(10) % 7
    weights = torch.rand(10, dtype=DTYPE, requires_grad=True)
    inputs = (hidden, weight, weights)

    @remat
    def head(hidden: Any, targets: Any, weights: Any, weight: Any) -> torch.Tensor:
        return weights @ F.cross_entropy(hidden @ weight.T, targets, reduction='none')

    def second(loss: torch.Tensor) -> list[torch.Tensor]:
        gradients = torch.autograd.grad(loss, (hidden, weight), create_graph=True)
        return list(torch.autograd.grad(powers(gradients), inputs))

    chunks = zip(hidden.split(3), targets.split(3), weights.split(3))
    found = sum(head(*chunk, weight) for chunk in chunks)
    whole = weights @ F.cross_entropy(hidden @ weight.T, targets, reduction='none')
    assert isinstance(found, torch.Tensor)
    assert_equal([found, *second(found)], [whole, *second(whole)])


def test_what_a_module_is_called_does_not_matter() -> None:
    """In the forward pass of a model, which keeps the names of its parameters."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Residual().to(DTYPE)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = remat(self.first)(x)
            return result

    torch.manual_seed(0)
    model = Model()
    assert 'first.up.weight' in model.state_dict()
    x = torch.randn(2, WIDTH, dtype=DTYPE)
    loss, params = functional(model)
    plain, plain_params = functional(nn.ModuleDict({'first': model.first})['first'])
    found = torch.func.grad(meta(torch.func.grad(loss)))(params, x)
    expected = torch.func.grad(meta(torch.func.grad(plain)))(plain_params, x)
    assert_equal(list(found.values()), list(expected.values()))


def test_without_grad_mode_the_block_runs_as_it_is() -> None:
    calls = 0

    def block(x: torch.Tensor) -> float:
        nonlocal calls
        calls += 1
        return float(x.sum())

    with torch.no_grad():
        assert remat(block)(torch.ones(2, requires_grad=True)) == 2 and calls == 1
