"""Schedules against their closed forms, and their properties by Hypothesis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchopt
from support.trees import assert_trees_equal, copied

values = st.floats(-10, 10, allow_subnormal=False)
counts = st.integers(0, 200)
durations = st.integers(1, 50)
begins = st.integers(0, 20)
powers = st.floats(0.25, 4)
rates = st.floats(0.1, 3)


@given(values, values, powers, durations, begins, counts)
def test_polynomial(v0: float, v1: float, power: float, duration: int, begin: int, t: int) -> None:
    value = torchopt.polynomial_schedule(v0, v1, power, duration, begin)(t)
    elapsed = min(max(t - begin, 0), duration)
    expected = (v0 - v1) * (1 - elapsed / duration) ** power + v1
    assert value.dtype == torch.float64
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(values, values, durations, begins, counts)
def test_linear_is_polynomial_of_power_1(
    v0: float, v1: float, duration: int, begin: int, t: int
) -> None:
    linear = torchopt.linear_schedule(v0, v1, duration, begin)
    assert linear(t) == torchopt.polynomial_schedule(v0, v1, 1.0, duration, begin)(t)


@given(values, values, powers, durations, begins)
def test_polynomial_is_monotone_within_its_ends(
    v0: float, v1: float, power: float, duration: int, begin: int
) -> None:
    schedule = torchopt.polynomial_schedule(v0, v1, power, duration, begin)
    curve = torch.stack([schedule(t) for t in range(begin + duration + 3)])
    differences = curve.diff() if v1 >= v0 else -curve.diff()
    assert (differences >= -1e-12).all()
    assert (curve[: begin + 1] - v0).abs().max() <= 1e-12
    assert (curve[begin + duration :] - v1).abs().max() <= 1e-12


@given(values, durations, rates, begins, st.booleans(), counts)
def test_exponential(
    v0: float, duration: int, rate: float, begin: int, staircase: bool, t: int
) -> None:
    value = torchopt.exponential_decay(v0, duration, rate, begin, staircase)(t)
    elapsed = max(t - begin, 0)
    exponent = elapsed // duration if staircase else elapsed / duration
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(v0 * rate**exponent, rel=1e-10, abs=1e-300)


@given(st.floats(0.1, 10), durations, rates, st.floats(0.1, 10), counts)
def test_exponential_stops_at_its_end(
    v0: float, duration: int, rate: float, end: float, t: int
) -> None:
    free = torchopt.exponential_decay(v0, duration, rate)(t).item()
    bounded = torchopt.exponential_decay(v0, duration, rate, end_value=end)(t).item()
    assert bounded == (max(free, end) if rate < 1 else min(free, end))


@pytest.mark.parametrize('count', [3, 3.0, torch.tensor(3), torch.tensor(3.0, dtype=torch.float64)])
@pytest.mark.parametrize(
    'schedule',
    [torchopt.linear_schedule(1.0, 0.0, 7), torchopt.exponential_decay(1.0, 7, 0.5)],
    ids=['linear', 'exponential'],
)
def test_counts_of_any_kind(schedule: Any, count: Any) -> None:
    expected = schedule(torch.tensor(3.0, dtype=torch.float64))
    assert torch.equal(schedule(count), expected)


def test_gradient_to_the_arguments() -> None:
    def tensor(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64, requires_grad=True)

    def polynomial(v0: torch.Tensor, v1: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        return torch.stack([torchopt.polynomial_schedule(v0, v1, power, 5)(t) for t in range(8)])

    def exponential(v0: torch.Tensor, rate: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        schedule = torchopt.exponential_decay(v0, 2, rate, end_value=end)
        return torch.stack([schedule(t) for t in range(8)])

    assert torch.autograd.gradcheck(polynomial, (tensor(1.0), tensor(0.2), tensor(1.5)))
    assert torch.autograd.gradcheck(exponential, (tensor(1.0), tensor(0.6), tensor(0.3)))


def test_schedule_sees_the_number_of_updates_made() -> None:
    seen = []

    def schedule(count: torch.Tensor) -> float:
        seen.append((count.item(), count.dtype))
        return 1.0

    optimizer = torchopt.sgd(lr=schedule)
    state = optimizer.init(torch.zeros(1))
    for _ in range(3):
        _, state = optimizer.update(torch.ones(1), state)
    assert seen == [(step, torch.float64) for step in range(3)]


@pytest.mark.parametrize(
    ('make', 'arguments', 'message'),
    [
        (torchopt.polynomial_schedule, (1.0, 0.0, 0.0, 5), 'power must be greater than 0'),
        (torchopt.polynomial_schedule, (1.0, 0.0, 1.0, 0), 'transition_steps must be greater'),
        (torchopt.polynomial_schedule, (1.0, 0.0, 1.0, 5, -1), 'transition_begin must be at least'),
        (torchopt.linear_schedule, (1.0, 0.0, 0), 'transition_steps must be greater than 0'),
        (torchopt.exponential_decay, (1.0, 0, 0.5), 'transition_steps must be greater than 0'),
        # The order of TorchOpt 0.7: the rate before the steps.
        (torchopt.exponential_decay, (1.0, 0.5, 2), 'transition_steps must be at least 1, got 0.5'),
        (torchopt.exponential_decay, (1.0, 5, 0.0), 'decay_rate must be greater than 0'),
        (torchopt.exponential_decay, (1.0, 5, 0.5, -1), 'transition_begin must be at least 0'),
    ],
)
def test_arguments_out_of_range(make: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*arguments)


def test_a_schedule_must_be_callable() -> None:
    with pytest.raises(TypeError, match='schedule must be callable, got 3'):
        torchopt.transform.scale_by_schedule(3)


@pytest.mark.parametrize('inplace', [True, False])
def test_a_schedule_must_return_one_value(inplace: bool) -> None:
    optimizer = torchopt.adam(lr=lambda count: torch.ones(1))
    params = [torch.ones(2), torch.ones(())]
    gradients, state = copied(params), optimizer.init(params)
    with pytest.raises(ValueError, match=r'a schedule must return a number .* of shape \(1,\)'):
        optimizer.update(gradients, state, inplace=inplace)
    assert_trees_equal((gradients, state), (params, optimizer.init(params)))
