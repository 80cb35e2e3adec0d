"""Several backward passes at once: ``is_grads_batched=True`` and ``jacobian(vectorize=True)``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt import unrolling
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy, Truncated

MODES = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    Truncated(9, Snapshots()),
    ForwardMode(),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def step(c: Any, x: Any, k: Any) -> Any:
    gradient = unrolling.grad(lambda c, x, k: (c.sin() * x * k).sum())(c, x, k)
    return c - 0.1 * gradient + x * x, (c * x).sum()


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.rand(shape, dtype=DTYPE, requires_grad=True) for shape in ((4, 3), (), 3))


def run(backward: Strategy, xs: torch.Tensor, k: torch.Tensor, w: torch.Tensor) -> Any:
    return torchopt.unroll(step, w, xs, k, backward=backward)


@every_mode
def test_batched_cotangents(backward: Strategy) -> None:
    def found(backward: Strategy) -> list[torch.Tensor]:
        tensors = inputs()
        outputs = run(backward, *tensors)
        rows = torch.eye(7, dtype=DTYPE)
        both = torch.autograd.grad(
            outputs, tensors, (rows[:, :3], rows[:, 3:]), is_grads_batched=True
        )
        end, _ = run(backward, *tensors)
        one = torch.autograd.grad(end, tensors, torch.eye(3, dtype=DTYPE), is_grads_batched=True)
        return [*both, *one]

    assert_equal(found(backward), found(Stored()))


@every_mode
def test_vectorized_jacobian(backward: Strategy) -> None:
    def found(backward: Strategy) -> list[torch.Tensor]:
        jacobian: Any = torch.autograd.functional.jacobian(
            lambda *tensors: run(backward, *tensors)[0], inputs(), vectorize=True
        )
        return list(jacobian)

    assert_equal(found(backward), found(Stored()))


@pytest.mark.compile
def test_a_compiled_step_refuses() -> None:
    tensors = inputs()
    end, _ = run(Recomputed(compile='eager'), *tensors)
    with pytest.raises(RuntimeError, match=r'one cotangent at a time: leave out compile=\.\.\.'):
        torch.autograd.grad(end, tensors, torch.eye(3, dtype=DTYPE), is_grads_batched=True)
