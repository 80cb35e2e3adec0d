"""Mistakes with ``remat`` that would lose a gradient, or give a wrong one, raise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from support.blocks import DTYPE, WIDTH, Residual, assert_equal
from torchopt.unrolling import remat


def ones() -> torch.Tensor:
    return torch.ones(WIDTH, dtype=DTYPE, requires_grad=True)


@pytest.mark.parametrize('kind', ['leaf', 'computed', 'module'])
def test_a_captured_tensor_that_requires_grad(kind: str) -> None:
    weight = ones()
    if kind == 'computed':
        weight = weight * 2
    linear = nn.Linear(WIDTH, WIDTH, dtype=DTYPE)
    block: Callable[..., Any] = (lambda x: linear(x)) if kind == 'module' else lambda x: x * weight
    name = r'linear\.' if kind == 'module' else 'weight'
    with pytest.raises(RuntimeError, match=f'a block of remat depends on .*{name}.*as an argument'):
        remat(block)(ones())


@pytest.mark.parametrize('transform', [torch.func.grad, torch.vmap], ids=['grad', 'vmap'])
def test_a_captured_tensor_of_a_transform(transform: Callable[..., Any]) -> None:
    def loss(w: torch.Tensor) -> torch.Tensor:
        return remat(lambda x: x * w)(ones()).sum()

    with pytest.raises(RuntimeError, match=r'follows .*: w\. .*would be lost'):
        transform(loss)(torch.ones(2, WIDTH, dtype=DTYPE))


def test_an_attribute_that_a_transform_follows() -> None:
    """A tensor that is neither a parameter nor a buffer."""

    class Scaled(nn.Module):
        scale: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale['x']

    def loss(w: torch.Tensor) -> torch.Tensor:
        net = Scaled()
        net.scale = {'x': w}
        return remat(net)(ones()).sum()

    with pytest.raises(RuntimeError, match=r"scale\['x'\]. Their derivatives would be lost"):
        torch.func.grad(loss)(torch.ones(WIDTH, dtype=DTYPE))


def test_a_captured_dual_tensor() -> None:
    with torch.autograd.forward_ad.dual_level():
        moving: Any = torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2))
        with pytest.raises(RuntimeError, match=r'follows .*: moving\. .*would be lost'):
            remat(lambda x: x * moving)(torch.ones(2))


def test_captured_tensors_without_a_derivative_are_fine() -> None:
    mask = torch.arange(WIDTH) > 1
    (found,) = torch.autograd.grad(remat(lambda x: x * mask)(x := ones()).sum(), x)
    assert found.tolist() == [0, 0, 1, 1]


class Side(Residual):
    """Leaves a penalty where the loss finds it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.penalty: Any = None
        self.penalties: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        penalty = self.up(x).square().mean()
        if self.where == 'detached':
            penalty = penalty.detach()
        if self.where == 'no_grad':
            with torch.no_grad():
                penalty = penalty * 2
        if self.where == 'list':
            self.penalties.append(penalty)
        else:
            self.penalty = penalty
        return super().forward(x)


@pytest.mark.parametrize('where', ['list', 'attribute'])
@pytest.mark.parametrize('transform', [False, True])
def test_a_tensor_that_the_block_leaves_elsewhere(where: str, transform: bool) -> None:
    net = Side(where).to(DTYPE)
    name = 'penalties' if where == 'list' else 'penalty'
    if transform:
        name = 'in a list or an attribute'

    def loss(x: torch.Tensor) -> torch.Tensor:
        return remat(net)(x).sum()

    with pytest.raises(RuntimeError, match=f'keeps a tensor that it has computed .*{name}'):
        if transform:
            torch.vmap(torch.func.grad(loss))(torch.ones(2, WIDTH, dtype=DTYPE))
        else:
            loss(ones())


@pytest.mark.parametrize('where', ['detached', 'no_grad'])
def test_a_tensor_without_a_derivative_may_be_left(where: str) -> None:
    """Without ``remat`` it has no gradient either."""
    net = Side(where).to(DTYPE)
    (expected,) = torch.autograd.grad(net(x := ones()).sum(), x)
    (found,) = torch.autograd.grad(remat(net)(x).sum(), x)
    assert_equal([found], [expected])


@pytest.mark.parametrize('assigned', [False, True])
def test_a_buffer_with_a_graph(assigned: bool) -> None:
    class Penalized(nn.Linear):
        penalty: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if assigned:
                self.penalty = x.square().sum()
            else:
                self.penalty.copy_(x.square().sum())
            return super().forward(x)

    net = Penalized(WIDTH, WIDTH, dtype=DTYPE)
    net.register_buffer('penalty', torch.zeros((), dtype=DTYPE))
    with pytest.raises(RuntimeError, match='with a graph into its buffer penalty'):
        remat(net)(ones())
    assert not net.penalty.requires_grad


@pytest.mark.parametrize('number', [0, 1])
def test_writing_into_a_result_changes_no_other_tensor(number: int) -> None:
    """Also where the block returns an argument, or a view of another result."""

    def block(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = x.sin()
        return x, out, out.view(2, 2)

    start = ones()
    x = start * 1
    results = remat(block)(x)
    results[number].mul_(2)
    value = (x * 3).sum() + results[2].sum()
    (found,) = torch.autograd.grad(value, start)
    torch.testing.assert_close(found, 3 + torch.ones_like(found).cos())


def test_an_argument_that_the_block_keeps() -> None:
    kept = []

    def block(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x * 2

    with pytest.raises(RuntimeError, match=r'keeps a tensor .*kept\[0\]'):
        remat(block)(ones())


@pytest.mark.parametrize('what', ['argument', 'view', 'integer', 'parameter', 'captured'])
def test_writing_in_place(what: str) -> None:
    linear = nn.Linear(WIDTH, WIDTH, dtype=DTYPE)
    counts = torch.zeros(2, dtype=torch.int64)

    def block(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        if what == 'argument':
            x.mul_(2)
        elif what == 'view':
            x[1:].relu_()
        elif what == 'integer':
            n += 1
        elif what == 'captured':
            counts.add_(1)
        return x.sin()

    class Writes(nn.Linear):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.weight.mul_(0.5)
            return super().forward(x)

    if what == 'parameter':
        block = Writes(WIDTH, WIDTH).to(DTYPE)  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match='a block of remat writes in place into'):
        remat(block)(ones() * 1, torch.tensor(3))
    del linear


@pytest.mark.parametrize('draw', [random.random, lambda: torch.rand((), generator=source)])
def test_random_numbers_that_cannot_be_replayed(draw: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match='a block of remat draws from'):
        remat(lambda x: x * draw())(ones())


source = torch.Generator().manual_seed(0)


def test_another_result_in_the_second_run() -> None:
    factors = [2.0]

    def block(x: torch.Tensor) -> torch.Tensor:
        return (x * factors[0]).sin()

    out = remat(block)(x := ones())
    factors[0] = 3.0
    with pytest.raises(RuntimeError, match='another result when it is run again'):
        torch.autograd.grad(out.sum(), x)


@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('what', ['captured', 'argument', 'hook', 'parameter'])
def test_what_has_changed_before_the_second_run(what: str, order: int) -> None:
    net = Residual().to(DTYPE)
    captured = torch.ones(WIDTH, dtype=DTYPE)
    block: Any = (lambda x: (x * captured).sin()) if what == 'captured' else net
    start = ones()
    x = start * 1
    out = remat(block)(x).square().sum()
    if order == 2:
        (out,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
    with torch.no_grad():
        if what == 'captured':
            captured.mul_(2)
        elif what == 'argument':
            x.mul_(2)
        elif what == 'parameter':
            net.up.weight.mul_(2)
        else:
            net.up.register_forward_hook(lambda module, args, out: out * 2)
    message = (
        'modified by an inplace operation'
        if what in ('argument', 'parameter')
        else 'a block of remat uses'
    )
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(out.sum(), start)


@pytest.mark.parametrize('result', [3.0, [torch.ones(2), 'text']], ids=str)
def test_results_that_are_not_tensors(result: Any) -> None:
    with pytest.raises(TypeError, match='must return tensors or None'):
        remat(lambda x: result)(ones())


def test_what_is_neither_a_module_nor_a_function() -> None:
    with pytest.raises(TypeError, match='remat takes a module or a function, got Tensor'):
        remat(torch.ones(2))  # type: ignore[call-overload]


def test_gradients_of_the_block_itself() -> None:
    """Inner gradients inside of a block are fine, with either interface."""

    def block(x: torch.Tensor, by: str) -> torch.Tensor:
        def energy(x: torch.Tensor) -> torch.Tensor:
            return F.softplus(x).pow(3).sum()

        if by == 'func':
            result: torch.Tensor = torch.func.grad(energy)(x)
            return result
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        return torch.autograd.grad(energy(x), x, create_graph=True)[0]

    def second(block: Callable[..., Any], by: str) -> Any:
        x = ones()
        (first,) = torch.autograd.grad(block(x, by).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)

    for by in ('func', 'autograd'):
        assert_equal(second(remat(block), by), second(block, by))
