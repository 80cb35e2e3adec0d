"""schedule_free: the paper's iterates, and the parameters to evaluate at, in every front end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.trees import assert_trees_close, assert_trees_equal, requiring_grad
from support.unrolled import META, START, inner_loss
from torchopt import schedule_free, schedule_free_eval_params

START_POINT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def gradient(y: torch.Tensor) -> torch.Tensor:
    return y.sin() + 0.5 * y


def run(optimizer: Any, y: Any, steps: int, state: Any = None) -> Any:
    state = optimizer.init(y) if state is None else state
    for _ in range(steps):
        updates, state = optimizer.update(gradient(y), state, params=y, inplace=False)
        y = torchopt.apply_updates(y, updates, inplace=False)
    return y, state


@pytest.mark.parametrize('beta', [1.0, 0.9, 0.3])
def test_the_iterates_of_the_paper(beta: float) -> None:
    """Equations 3 to 5 with gradient descent, whose average is uniform."""
    x = y = z = START_POINT
    for t in range(1, 8):
        z = z - 0.2 * gradient(y)
        x = (1 - 1 / t) * x + z / t
        y = (1 - beta) * z + beta * x
    found, state = run(schedule_free(torchopt.sgd(0.2), beta=beta), START_POINT, 7)
    assert_trees_close((found, state.z, schedule_free_eval_params(state, found)), (y, z, x))


def test_a_warm_up_from_0() -> None:
    """The weights are squares of the largest rate so far: 0, 0.1, 0.2, 0.2 here."""
    rates = [0.0, 0.1, 0.2, 0.1]
    weights = [0.0, 0.01, 0.04, 0.04]
    x = y = z = START_POINT
    for rate, weight, total in zip(rates, weights, (1.0, 0.01, 0.05, 0.09)):
        z = z - rate * gradient(y)
        x = x + weight / total * (z - x)
        y = 0.1 * z + 0.9 * x

    def schedule(count: torch.Tensor) -> float:
        return rates[int(count)]

    found, state = run(schedule_free(torchopt.sgd(schedule), schedule), START_POINT, 4)
    assert_trees_close((found, schedule_free_eval_params(state, found)), (y, x))
    _, uniform = run(
        schedule_free(torchopt.sgd(schedule), schedule, weight_lr_power=0.0), START_POINT, 4
    )
    assert uniform.weight_sum == 4


def test_a_beta_that_changes_between_steps() -> None:
    """The state has the beta with which the parameters were made."""
    y, state = run(schedule_free(torchopt.sgd(0.2), beta=0.9), START_POINT, 3)
    x = schedule_free_eval_params(state, y)
    y, state = run(schedule_free(torchopt.sgd(0.0), beta=0.5), y, 1, state)
    expected = x + 0.25 * (state.z - x)
    assert_trees_close(schedule_free_eval_params(state, y), expected)
    assert_trees_close(y, 0.5 * expected + 0.5 * state.z)


def test_derivative_of_the_average() -> None:
    def average(y: torch.Tensor, lr: torch.Tensor, beta: torch.Tensor, steps: int) -> Any:
        optimizer = schedule_free(torchopt.sgd(lr), lr, beta)
        y, state = run(optimizer, y, steps)
        return schedule_free_eval_params(state, y)

    lr, beta = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 0.7))
    y = START_POINT.clone().requires_grad_()
    for steps in (0, 1, 4):
        assert torch.autograd.gradcheck(
            lambda *inputs, steps=steps: average(*inputs, steps), (y, lr, beta)
        )


def test_numbers_of_the_state_are_float64_and_do_not_widen_parameters() -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    y, state = run(schedule_free(torchopt.sgd(lr), lr), START_POINT.float(), 2)
    assert y.dtype == state.z.dtype == torch.float32
    assert state.beta.dtype == state.weight_sum.dtype == torch.float64


def test_plain_optimizer() -> None:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    y = torch.nn.Parameter(START_POINT.clone())
    optimizer = torchopt.Optimizer([frozen, y], schedule_free(torchopt.sgd(0.2)))
    assert_trees_equal(schedule_free_eval_params(optimizer.state, [y]), [y])
    for _ in range(3):
        y.grad = gradient(y.detach())
        optimizer.step()
    expected, state = run(schedule_free(torchopt.sgd(0.2)), START_POINT, 3)
    with torch.no_grad():
        found = schedule_free_eval_params(optimizer.state, {'frozen': frozen, 'y': y})
    assert_trees_close(y.detach(), expected)
    assert_trees_close(
        found, {'frozen': torch.ones(2), 'y': schedule_free_eval_params(state, expected)}
    )


def test_unroll_and_a_chain() -> None:
    optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), schedule_free(torchopt.sgd(0.2)))
    phi, start = META.clone().requires_grad_(), requiring_grad(START)

    def step(carry: Any, _: Any, phi: torch.Tensor) -> Any:
        params, state = carry
        gradients = torch.func.grad(inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        return (torchopt.apply_updates(params, updates, inplace=False), state), None

    def loss(average: Any) -> torch.Tensor:
        return sum(leaf.square().sum() for leaf in average.values())

    results = []
    for backward in (torchopt.unrolling.Stored(), torchopt.unrolling.Recomputed()):
        carry = start, optimizer.init(start)
        (params, state), _ = torchopt.unroll(step, carry, consts=phi, length=4, backward=backward)
        average = schedule_free_eval_params(state[1], params)
        results.append(torch.autograd.grad(loss(average), [phi, *start.values()]))
    carry = start, optimizer.init(start)
    for _ in range(4):
        carry, _ = step(carry, None, phi)
    average = schedule_free_eval_params(carry[1][1], carry[0])
    expected = torch.autograd.grad(loss(average), [phi, *start.values()])
    for result in results:
        assert_trees_close(result, expected)


def test_module_step() -> None:
    """The average goes into the module, with its graph."""
    net = torch.nn.Linear(2, 1, dtype=torch.float64)
    weight = torch.tensor(0.7, dtype=torch.float64)
    data = torch.tensor([[0.3, -1.0], [1.5, 0.2], [-0.4, 0.9]], dtype=torch.float64)

    def loss(net: Any, x: Any, weight: torch.Tensor) -> torch.Tensor:
        return weight * (net(x) - 1).square().sum()

    def held_out(weight: torch.Tensor) -> torch.Tensor:
        step = torchopt.unrolling.ModuleStep(net, schedule_free(torchopt.sgd(0.1)), loss)
        start = step.init()
        carry, _ = torchopt.unroll(
            step, start, data, weight, backward=torchopt.unrolling.Recomputed()
        )
        average = schedule_free_eval_params(carry.state, carry.params)
        step.write(carry._replace(params=average))
        value = net(data).square().sum()
        step.write(start)
        return value

    assert torch.autograd.gradcheck(held_out, weight.requires_grad_())


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (torchopt.sgd(0.1).init(START), 'state of schedule_free itself, got EmptyState'),
        (
            torchopt.chain(torchopt.transform.ema(), schedule_free(torchopt.sgd(1.0))).init(START),
            r'state of schedule_free itself: pass state\[1\]',
        ),
        ({'state': {}, 'param_groups': []}, 'state of schedule_free itself, got dict'),
        (START, 'state of schedule_free itself, got dict'),
    ],
)
def test_another_state_says_what_to_pass(state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        schedule_free_eval_params(state, START)


def test_another_plain_optimizer_is_refused() -> None:
    y = torch.nn.Parameter(START_POINT.clone())
    y.grad = torch.ones_like(y)
    optimizer = torchopt.SGD([y], lr=0.1, momentum=0.9)
    optimizer.step()
    with pytest.raises(TypeError, match=r'not schedule_free: its state has .*momentum_buffer'):
        schedule_free_eval_params(optimizer.state, [y])
    with pytest.raises(ValueError, match='not the parameters of this optimizer'):
        schedule_free_eval_params(optimizer.state, [y.detach()])


def test_arguments() -> None:
    inner = torchopt.sgd(0.1)
    for options, error, message in (
        ({'beta': 0.0}, ValueError, 'beta must be greater than 0'),
        ({'beta': 1.1}, ValueError, 'beta must be at least 0 and at most 1'),
        ({'lr': 0.0}, ValueError, 'lr must be greater than 0'),
        ({'lr': {'w': 0.1}}, TypeError, 'lr must be a number or a 0-dim'),
        ({'weight_lr_power': -1.0}, ValueError, 'weight_lr_power must be at least 0'),
    ):
        with pytest.raises(error, match=message):
            schedule_free(inner, **options)
    optimizer = schedule_free(inner, lr=lambda count: {'w': 0.1})
    with pytest.raises(TypeError, match='one rate for all parameters, got a tree'):
        run(optimizer, START_POINT, 1)
