"""What a step sees beside its arguments: replayed, or refused if it has changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt import unrolling
from torchopt.unrolling import ModuleStep, Recomputed, Snapshots, Stored, Strategy, Truncated

LENGTH = 5
EAGER: list[Strategy] = [
    Recomputed(),
    Recomputed(keep_gradients=True),
    Recomputed(keep_gradients=True, order='forward-over-reverse'),
    Snapshots(2),
    Truncated(LENGTH, Snapshots(1)),
]
COMPILED: list[Strategy] = [Recomputed(compile='eager'), Snapshots(2, compile='eager')]
eager_modes = pytest.mark.parametrize('backward', EAGER, ids=str)
every_mode = pytest.mark.parametrize(
    'backward',
    [*EAGER, *(pytest.param(mode, marks=pytest.mark.compile) for mode in COMPILED)],
    ids=str,
)


class Counter(nn.Module):
    """Counts its calls in a plain attribute, which its output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * (1 + self.calls)


def make_net(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    norm, dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)
    return nn.Sequential(
        frozen, nn.Linear(3, 4), norm, nn.Tanh(), dropout, *more, nn.Linear(4, 1)
    ).to(DTYPE)


def loss_of(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights * (net(x) - 1).square()).mean()


def module_step(net: nn.Module) -> Any:
    step = ModuleStep(net, torchopt.sgd(0.1), loss_of)
    return step, step.init()


def plain_step(net: nn.Module) -> Any:
    """A step that finds the module in its closure."""

    def loss(params: Any, buffers: Any, x: torch.Tensor, weights: torch.Tensor) -> Any:
        tensors = {**params, **{name: buffer.detach().clone() for name, buffer in buffers.items()}}
        return loss_of(lambda x: torch.func.functional_call(net, tensors, (x,)), x, weights)

    def step(carry: Any, x: torch.Tensor, weights: torch.Tensor) -> Any:
        found, value = unrolling.grad_and_value(loss)(*carry, x, weights)
        return ({name: p - 0.1 * found[name] for name, p in carry[0].items()}, carry[1]), value

    params = {name: param for name, param in net.named_parameters() if param.requires_grad}
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}
    return step, (params, buffers)


makers = pytest.mark.parametrize('make', [module_step, plain_step])


def gradient(
    net: nn.Module,
    make: Callable[[nn.Module], Any],
    backward: Strategy,
    between: Callable[[nn.Module], Any] = lambda net: None,
) -> list[torch.Tensor]:
    """Gradients through an unroll; ``between`` is called before the backward pass."""
    torch.manual_seed(1)
    weights = torch.linspace(0.5, 1.5, 8, dtype=DTYPE).unsqueeze(1).requires_grad_()
    step, carry = make(net)
    start = list(carry[0].values())
    xs = torch.randn(LENGTH, 8, 3, dtype=DTYPE)
    end, losses = torchopt.unroll(step, carry, xs, weights, backward=backward)
    between(net)
    outer = losses.sum() + sum(p.square().sum() for p in end[0].values())
    return list(torch.autograd.grad(outer, [weights, *start]))


@makers
@every_mode
def test_the_mode_of_a_module(backward: Strategy, make: Any) -> None:
    net = make_net()
    expected = gradient(make_net(), make, Stored())
    assert_equal(gradient(net, make, backward, lambda net: net.eval()), expected)
    assert not any(module.training for module in net.modules())


def test_the_mode_in_a_second_derivative() -> None:
    def second(backward: Strategy) -> torch.Tensor:
        torch.manual_seed(1)
        # BatchNorm has no third derivative, since torch 2.14.
        net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 1)).to(DTYPE)
        weights = torch.ones(8, 1, dtype=DTYPE, requires_grad=True)
        step, carry = module_step(net)
        xs = torch.randn(3, 8, 3, dtype=DTYPE)
        end, _ = torchopt.unroll(step, carry, xs, weights, backward=backward)
        net.eval()
        outer = sum(p.square().sum() for p in end.params.values())
        (first,) = torch.autograd.grad(outer, weights, create_graph=True)
        assert not net.training
        return torch.autograd.grad(first.square().sum(), weights)[0]

    assert_equal([second(Recomputed())], [second(Stored())])


@makers
@eager_modes
def test_plain_attributes(backward: Strategy, make: Any) -> None:
    """Replayed step by step, where the steps change them."""
    expected = gradient(make_net(Counter()), make, Stored())
    net = make_net(Counter())

    def between(net: nn.Module) -> None:
        net[4].p, net[2].momentum, net[5].calls = 0.9, 0.5, 100

    assert_equal(gradient(net, make, backward, between), expected)
    assert (net[4].p, net[2].momentum, net[5].calls) == (0.9, 0.5, 100)


def test_a_mode_that_progress_changes() -> None:
    def gradients(backward: Strategy) -> list[torch.Tensor]:
        net, weights = make_net(), torch.ones(8, 1, dtype=DTYPE, requires_grad=True)
        torch.manual_seed(1)
        step, carry = module_step(net)
        end, _ = torchopt.unroll(
            step,
            carry,
            torch.randn(LENGTH, 8, 3, dtype=DTYPE),
            weights,
            backward=backward,
            progress=lambda taken, *_: net.train(taken != 2),
        )
        net.eval()
        outer = sum(p.square().sum() for p in end.params.values())
        return list(torch.autograd.grad(outer, weights))

    for backward in EAGER:
        assert_equal(gradients(backward), gradients(Stored()))


def test_modes_are_restored_after_an_error() -> None:
    net = make_net()
    raises = False

    def loss(net: Any, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        assert net.training
        if raises:
            raise KeyError('from the loss')
        return loss_of(net, x, weights)

    weights = torch.ones(8, 1, dtype=DTYPE, requires_grad=True)
    step = ModuleStep(net, torchopt.sgd(0.1), loss)
    _, losses = torchopt.unroll(
        step, step.init(), torch.randn(3, 8, 3, dtype=DTYPE), weights, backward=Recomputed()
    )
    net.eval()
    raises = True
    with pytest.raises(KeyError, match='from the loss'):
        losses.sum().backward()
    assert not any(module.training for module in net.modules())


def load(net: Any) -> None:
    net[0].load_state_dict({'weight': torch.zeros(3, 3), 'bias': torch.ones(3)})


def other_data(net: Any) -> None:
    net[0].weight.data = torch.zeros(3, 3, dtype=DTYPE)


def other_parameter(net: Any) -> None:
    net[0].weight = nn.Parameter(torch.zeros(3, 3, dtype=DTYPE), requires_grad=False)


def unfreeze(net: Any) -> None:
    net[0].requires_grad_(True)


@makers
@every_mode
@pytest.mark.parametrize(
    'between, what',
    [
        (load, 'written to'),
        (other_data, 'given other data'),
        (other_parameter, 'replaced'),
        (unfreeze, 'switched to requires_grad=True'),
    ],
)
def test_a_frozen_parameter_that_changes(
    backward: Strategy, make: Any, between: Any, what: str
) -> None:
    with pytest.raises(RuntimeError, match=rf'0\.(weight|bias), a tensor .*was {what} after'):
        gradient(make_net(), make, backward, between)


def test_a_frozen_parameter_that_changes_before_a_second_derivative() -> None:
    net, weights = make_net(), torch.ones(8, 1, dtype=DTYPE, requires_grad=True)
    step, carry = module_step(net)
    xs = torch.randn(3, 8, 3, dtype=DTYPE)
    _, losses = torchopt.unroll(step, carry, xs, weights, backward=Recomputed())
    load(net)
    with pytest.raises(RuntimeError, match=r'module\.0\.weight.*was written to'):
        torch.autograd.grad(losses.sum(), weights, create_graph=True)


@makers
@every_mode
def test_what_the_step_does_not_use_may_change(backward: Strategy, make: Any) -> None:
    """The step takes these tensors from its carry, and reads no more of them than their shapes."""

    def between(net: Any) -> None:
        with torch.no_grad():
            net[2].running_mean.fill_(7.0)
        net[1].weight = nn.Parameter(torch.zeros(4, 3, dtype=DTYPE))

    expected = gradient(make_net(), make, Stored())
    assert_equal(gradient(make_net(), make, backward, between), expected)


@makers
@pytest.mark.parametrize(
    'between',
    [
        lambda net: net[1].register_forward_hook(lambda module, args, out: 2 * out),
        lambda net: net[1].register_forward_pre_hook(lambda module, args: (2 * args[0],)),
        lambda net: net.__setitem__(3, nn.ReLU()),
        lambda net: setattr(net[3], 'forward', torch.relu),
        lambda net: parametrizations.weight_norm(net[0]),
    ],
    ids=['hook', 'pre-hook', 'submodule', 'forward', 'parametrization'],
)
def test_a_module_that_changes(make: Any, between: Any) -> None:
    for backward in (Recomputed(), Snapshots(2)):
        with pytest.raises(RuntimeError, match='has got another class, forward, submodule or hook'):
            gradient(make_net(), make, backward, between)


SCALES = {'global': torch.ones(3)}


def tensor_in_a_closure() -> tuple[Any, Any]:
    scale = torch.ones(3)
    return lambda w, x, k: (w * k * scale, None), lambda: scale.mul_(2)


def tensor_in_a_global_tree() -> tuple[Any, Any]:
    return lambda w, x, k: (w * k * SCALES['global'], None), lambda: SCALES['global'].mul_(2)


def variable_that_is_bound_again() -> tuple[Any, Any]:
    scale = torch.ones(3)

    def again() -> None:
        nonlocal scale
        scale = torch.full((3,), 2.0)

    return lambda w, x, k: (w * k * scale, None), again


def network_in_no_grad() -> tuple[Any, Any]:
    """Its parameters require grad, but the step takes no derivative by them."""
    teacher = nn.Linear(3, 3)

    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        with torch.no_grad():
            target = teacher(torch.ones(3))
        return w * k * target, None

    def learn() -> None:
        with torch.no_grad():
            teacher.weight.add_(1.0)

    return step, learn


def list_of_a_tensor() -> tuple[Any, Any]:
    scale = torch.ones(3)
    return lambda w, x, k: (w * k * sum(scale.tolist()), None), lambda: scale.mul_(2)


@pytest.mark.parametrize(
    'make',
    [
        tensor_in_a_closure,
        tensor_in_a_global_tree,
        variable_that_is_bound_again,
        network_in_no_grad,
        list_of_a_tensor,
    ],
)
def test_a_captured_tensor_that_changes(make: Callable[[], tuple[Any, Any]]) -> None:
    for backward in (Recomputed(), Snapshots(1)):
        step, change = make()
        k = torch.tensor(0.5, requires_grad=True)
        end, _ = torchopt.unroll(step, torch.ones(3), None, k, length=3, backward=backward)
        change()
        with pytest.raises(RuntimeError, match=r'(scale|SCALES|teacher).*after the forward pass'):
            end.sum().backward()
        assert k.grad is None


def test_a_module_in_consts() -> None:
    dropout = nn.Dropout(0.5)

    def step(w: torch.Tensor, x: Any, consts: Any) -> Any:
        return w * consts[0] + consts[1](torch.ones(3)), None

    def gradients(backward: Strategy) -> list[torch.Tensor]:
        torch.manual_seed(0)
        dropout.train()
        k = torch.tensor(0.5, requires_grad=True)
        end, _ = torchopt.unroll(
            step, torch.ones(3), None, (k, dropout), length=3, backward=backward
        )
        dropout.eval()
        return list(torch.autograd.grad(end.sum(), k))

    assert_equal(gradients(Recomputed()), gradients(Stored()))


@pytest.mark.parametrize('backward', [Recomputed(), Snapshots(2)], ids=str)
def test_a_step_that_writes_into_what_it_captures(backward: Strategy) -> None:
    net = parametrizations.spectral_norm(nn.Linear(3, 1))

    def loss(params: Any, weights: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(net, params, (torch.ones(8, 3),))
        return (weights * out.square()).mean()

    def step(params: Any, x: Any, weights: torch.Tensor) -> Any:
        found = unrolling.grad(loss)(params, weights)
        return {name: p - 0.1 * found[name] for name, p in params.items()}, None

    weights = torch.ones(8, 1, requires_grad=True)
    with pytest.raises(RuntimeError, match=r'step 0 writes in place into net\.param.*_u.*carry'):
        torchopt.unroll(
            step, dict(net.named_parameters()), None, weights, length=3, backward=backward
        )
    with torch.no_grad():
        torchopt.unroll(
            step, dict(net.named_parameters()), None, weights, length=3, backward=backward
        )


@pytest.mark.parametrize('keep', [False, True])
def test_a_second_run_with_another_result(keep: bool) -> None:
    """The last line of defence: an iterator is neither replayed nor watched."""
    numbers = itertools.count()

    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return w * k + next(numbers), None

    k = torch.tensor(0.5, requires_grad=True)
    end, _ = torchopt.unroll(
        step,
        {'w': torch.ones(3)}['w'],
        None,
        k,
        length=3,
        backward=Recomputed(keep_gradients=keep),
    )
    with pytest.raises(RuntimeError, match='step 1 of unroll gives another carry when'):
        end.sum().backward()


def test_rounding_is_no_other_result() -> None:
    size = 1.0

    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return w * k * size, None

    k = torch.tensor(0.5, requires_grad=True)
    end, _ = torchopt.unroll(step, torch.ones(3), None, k, length=3, backward=Recomputed())
    size = 1 + 2e-7
    (found,) = torch.autograd.grad(end.sum(), k)
    torch.testing.assert_close(found, torch.tensor(9 * 0.25))


def test_a_carry_of_infinities_is_compared_with_itself() -> None:
    def step(w: torch.Tensor, x: Any, k: torch.Tensor) -> Any:
        return torch.cat([w[:1] * k, (w[1:] - w[1:]) / 0 + F.relu(w[1:])]), None

    k = torch.tensor(0.5, requires_grad=True)
    end, _ = torchopt.unroll(step, torch.ones(3), None, k, length=3, backward=Recomputed())
    assert end[1:].isnan().all()
    (found,) = torch.autograd.grad(end[0], k)
    assert found == 3 * 0.25
