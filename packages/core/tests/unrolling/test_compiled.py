"""One step and its derivative are compiled once, for any number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import torchopt
from support.optimizer_cases import MAIN_CASES, OptimizerCase
from support.unrolls import DTYPE, assert_equal, problem
from torchopt import unrolling
from torchopt.unrolling import Recomputed, Snapshots, Stored

DEFAULTS = [case for case in MAIN_CASES if case.label == 'defaults']


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A backend that runs what it is given, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return module


def test_two_graphs_serve_every_number_of_steps_and_mode() -> None:
    backend = Counting()
    for length in (1, 2, 7, 30):
        example = problem(torchopt.adam, length, counter=torch.tensor(0))
        expected = example.gradients(Stored())
        for mode in (Recomputed(compile=backend), Snapshots(2, compile=backend)):
            assert_equal(example.gradients(mode), expected)
            assert_equal(example.gradients(mode, until=lambda carry: carry[2] >= 100), expected)
    assert backend.graphs == 2


def test_the_layout_of_the_outer_gradient_makes_no_graph_of_its_own() -> None:
    backend = Counting()
    w = torch.ones(3, 1, dtype=DTYPE, requires_grad=True)

    def step(w: torch.Tensor, x: None, consts: None) -> Any:
        return w.sin(), None

    for outer in (torch.ones(3, 1), torch.ones(1, 3).t(), torch.ones(1).expand(3, 1)):
        end, _ = torchopt.unroll(step, w, length=3, backward=Recomputed(compile=backend))
        torch.autograd.grad(end, w, outer.to(DTYPE))
    assert backend.graphs == 2


@pytest.mark.parametrize('case', DEFAULTS, ids=str)
def test_every_optimizer(case: OptimizerCase) -> None:
    example = problem(lambda lr: case.make(lr=lr), 4, counter=torch.tensor(0))
    mode = Recomputed(compile='aot_eager')
    assert_equal(example.gradients(mode), example.gradients(Stored()))


# Of torch's own doing, when it first compiles.
@pytest.mark.filterwarnings('ignore:.torch.jit:DeprecationWarning')
def test_inductor_and_random_numbers() -> None:
    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x * w.sin(), 0.5).square().sum()

    def step(w: torch.Tensor, x: torch.Tensor, k: torch.Tensor) -> Any:
        gradient, value = unrolling.grad_and_value(loss)(w, x)
        return w - k * gradient, value

    def run(**options: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        w = torch.rand(4, dtype=DTYPE, requires_grad=True)
        xs = torch.rand(5, 4, dtype=DTYPE, requires_grad=True)
        k = torch.tensor(0.1, dtype=DTYPE, requires_grad=True)
        end, losses = torchopt.unroll(step, w, xs, k, **options)
        total = end.sum() + losses.square().sum()
        return [total, *torch.autograd.grad(total, (w, xs, k))]

    compiled = run(backward=Recomputed(compile=True))
    # Another run draws the same; so do another mode, and the recomputation.
    assert_equal(run(backward=Recomputed(compile=True)), compiled)
    assert_equal(run(backward=Snapshots(2, compile=True)), compiled)
    assert_equal(run(), compiled)


def test_a_number_that_counts_is_refused() -> None:
    example = problem(length=3)
    with pytest.raises(TypeError, match='counters that are tensors'):
        example.gradients(Recomputed(compile='eager'))


def test_a_captured_tensor_is_named() -> None:
    rate = torch.tensor(0.1, requires_grad=True)

    def step(c: torch.Tensor, x: Any, k: Any) -> Any:
        return c * rate, None

    with pytest.raises(RuntimeError, match=r'step 0 depends on .*rate of shape \(\)'):
        torchopt.unroll(step, torch.ones(2), length=2, backward=Recomputed(compile='eager'))


def test_a_branch_on_a_tensor_says_so() -> None:
    def step(c: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return (c * k if c.sum() > 0 else c), None

    k = torch.tensor(0.1, requires_grad=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r'(?i)data-dependent'):
        torchopt.unroll(
            step, torch.ones(2), consts=k, length=2, backward=Recomputed(compile='eager')
        )
