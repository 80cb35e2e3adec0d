"""One step and its derivative are compiled once, for any number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchopt
from support.optimizer_cases import MAIN_CASES, OptimizerCase
from support.unrolls import DTYPE, assert_equal, problem
from torchopt import unrolling
from torchopt.unrolling import Recomputed, Snapshots, Stored, Strategy

pytestmark = pytest.mark.compile

# Without a state, with one, and with a branch by the number of steps.
DIFFERENT = [
    case for case in MAIN_CASES if str(case) in ('sgd-defaults', 'adam-all', 'radam-defaults')
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

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


def test_the_layout_of_the_outer_gradient_does_not_recompile() -> None:
    backend = Counting()
    w = torch.ones(3, 1, dtype=DTYPE, requires_grad=True)

    def step(w: torch.Tensor, x: None, consts: None) -> Any:
        return w.sin(), None

    for outer in (torch.ones(3, 1), torch.ones(1, 3).t(), torch.ones(1).expand(3, 1)):
        end, _ = torchopt.unroll(step, w, length=3, backward=Recomputed(compile=backend))
        torch.autograd.grad(end, w, outer.to(DTYPE))
    assert backend.graphs == 2


def test_the_layout_of_the_first_carry_does_not_recompile() -> None:
    backend = Counting()
    k = torch.ones(4, dtype=DTYPE, requires_grad=True)

    def step(w: torch.Tensor, x: None, k: torch.Tensor) -> Any:
        return (w * k).sin(), None

    def end_of(w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        mode = Recomputed(compile=backend)
        return torchopt.unroll(step, w, consts=k, length=3, backward=mode)[0]

    for w in (torch.ones(2, 3), torch.ones(3, 2).t(), torch.ones(3).expand(2, 3)):
        ends = torch.vmap(end_of, (None, 0))(w.to(DTYPE), k)
        torch.autograd.grad(ends.sum(), k)
    assert backend.graphs == 2


def test_many_closures_of_one_function() -> None:
    backend = Counting()

    def make_step(power: int) -> Any:
        return lambda w, x, consts: (w**power, None)

    for power in range(2, 14):
        for _ in range(2):
            w = torch.ones(3, dtype=DTYPE, requires_grad=True)
            mode = Recomputed(compile=backend)
            end, _ = torchopt.unroll(make_step(power), w, length=2, backward=mode)
            (gradient,) = torch.autograd.grad(end.sum(), w)
            assert (gradient == power**2).all()
    assert backend.graphs == 2 * 12


@pytest.mark.parametrize('mode', [Recomputed(compile='eager'), Snapshots(1, compile='eager')])
def test_dictionaries_without_tensors(mode: Strategy) -> None:
    # With keys that are not in alphabetical order, and a module without buffers.
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(DTYPE)
    weights = torch.rand(8, 1, dtype=DTYPE, requires_grad=True)
    xs = torch.rand(4, 8, 3, dtype=DTYPE)

    def loss(net: nn.Module, x: torch.Tensor, consts: Any) -> torch.Tensor:
        assert consts['empty'] == {}
        return (net(x).square() * consts['weights'] * consts['options']['scale']).mean()

    def gradients(backward: Strategy) -> list[torch.Tensor]:
        step = unrolling.ModuleStep(net, torchopt.adam(0.01), loss)
        consts = {'weights': weights, 'options': {'scale': 2.0}, 'empty': {}}
        carry, losses = torchopt.unroll(step, step.init(), xs, consts, backward=backward)
        outer = losses.sum() + sum(p.square().sum() for p in carry.params.values())
        return list(torch.autograd.grad(outer, [weights, *net.parameters()]))

    assert_equal(gradients(mode), gradients(Stored()))


@pytest.mark.parametrize('case', DIFFERENT, ids=str)
def test_optimizers(case: OptimizerCase) -> None:
    example = problem(lambda lr: case.make(lr=lr), 4, counter=torch.tensor(0))
    mode = Recomputed(compile='aot_eager')
    assert_equal(example.gradients(mode), example.gradients(Stored()))


# torch itself triggers this warning when it first compiles.
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
    # Another run draws the same numbers, and so do another mode and the recomputation.
    assert_equal(run(backward=Recomputed(compile=True)), compiled)
    assert_equal(run(backward=Snapshots(2, compile=True)), compiled)
    assert_equal(run(), compiled)


def test_a_counter_that_is_a_number_is_refused() -> None:
    example = problem(length=3)
    with pytest.raises(TypeError, match='counters that are tensors'):
        example.gradients(Recomputed(compile='eager'))


def test_a_captured_tensor_is_named() -> None:
    rate = torch.tensor(0.1, requires_grad=True)

    def step(c: torch.Tensor, x: Any, k: Any) -> Any:
        return c * rate, None

    with pytest.raises(RuntimeError, match=r'step 0 depends on .*rate \(a tensor of shape \(\)'):
        torchopt.unroll(step, torch.ones(2), length=2, backward=Recomputed(compile='eager'))


def test_a_branch_on_a_tensor_says_so() -> None:
    def step(c: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return (c * k if c.sum() > 0 else c), None

    k = torch.tensor(0.1, requires_grad=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r'(?i)data-dependent'):
        torchopt.unroll(
            step, torch.ones(2), consts=k, length=2, backward=Recomputed(compile='eager')
        )
