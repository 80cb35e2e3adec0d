"""Schedules against their closed forms, and their properties by Hypothesis."""

from __future__ import annotations

import math
import pickle
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


def curve(schedule: Any, length: int) -> list[float]:
    return [float(schedule(t)) for t in range(length)]


# By hand.
CURVES = [
    (torchopt.constant_schedule(0.5), [0.5, 0.5]),
    (
        torchopt.cosine_decay_schedule(2.0, 4, alpha=0.5, exponent=2.0),
        [
            2 * (0.5 * (0.5 * (1 + math.cos(math.pi * t / 4))) ** 2 + 0.5)
            for t in (0, 1, 2, 3, 4, 4)
        ],
    ),
    (torchopt.piecewise_constant_schedule(1.0, {4: 3.0, 2: 0.1}), [1, 1, 0.1, 0.1, 0.3, 0.3]),
    (torchopt.piecewise_constant_schedule(1.0), [1, 1]),
    (
        torchopt.piecewise_interpolate_schedule('linear', 1.0, {2: 3.0, 4: 0.5}),
        [1, 2, 3, 2.25, 1.5, 1.5],
    ),
    (
        torchopt.linear_onecycle_schedule(10, 1.0, 0.2, 0.6, 4.0, 10.0),
        [0.25, 0.625, 1, 0.8125, 0.625, 0.4375, 0.25, 0.19375, 0.1375, 0.08125, 0.025, 0.025],
    ),
    (torchopt.warmup_constant_schedule(0.0, 1.0, 4), [0, 0.25, 0.5, 0.75, 1, 1, 1]),
    (torchopt.warmup_linear_decay_schedule(0.0, 1.0, 2, 6, 0.2), [0, 0.5, 1, 0.8, 0.6, 0.4, 0.2]),
    (
        torchopt.warmup_cosine_decay_schedule(0.0, 1.0, 2, 6, 0.2),
        [0, 0.5, *(0.2 + 0.4 * (1 + math.cos(math.pi * t / 4)) for t in (0, 1, 2, 3, 4, 4))],
    ),
    (
        torchopt.warmup_exponential_decay_schedule(0.0, 1.0, 2, 1, 0.5, end_value=0.2),
        [0, 0.5, 1, 0.5, 0.25, 0.2],
    ),
    (
        torchopt.join_schedules(
            [torchopt.linear_schedule(0.0, 3.0, 3), torchopt.constant_schedule(7.0)], [2]
        ),
        [0, 1, 7, 7],
    ),
]


@pytest.mark.parametrize(('schedule', 'expected'), CURVES)
def test_curves(schedule: Any, expected: list[float]) -> None:
    assert curve(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    copy = pickle.loads(pickle.dumps(schedule))
    assert curve(copy, 8) == curve(schedule, 8)


def test_joined_schedules_may_return_trees() -> None:
    def rates(factor: float) -> Any:
        return lambda count: {'a': factor * (count + 1), 'b': factor}

    joined = torchopt.join_schedules([rates(1.0), rates(10.0)], [2])
    optimizer = torchopt.sgd(lr=joined)
    params = {'a': torch.zeros(2), 'b': torch.zeros(1)}
    state = optimizer.init(params)
    steps = []
    for _ in range(4):
        ones = {name: torch.ones_like(x) for name, x in params.items()}
        updates, state = optimizer.update(ones, state)
        steps.append((updates['a'][0].item(), updates['b'].item()))
    assert steps == [(-1, -1), (-2, -1), (-10, -10), (-20, -10)]


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda: torchopt.join_schedules([], []), ValueError, '0 schedules have -1 boundaries'),
        (
            lambda: torchopt.join_schedules([torchopt.constant_schedule(1.0)] * 3, [2, 2]),
            ValueError,
            r'boundaries must ascend, got \[2, 2\]',
        ),
        (lambda: torchopt.join_schedules([0.1], []), TypeError, r'schedules\[0\] must be callable'),
        (
            lambda: torchopt.warmup_cosine_decay_schedule(0.0, 1.0, 5, 5),
            ValueError,
            'decay_steps, which counts the warm-up too, must be greater than warmup_steps',
        ),
        (
            lambda: torchopt.warmup_cosine_decay_schedule(0.0, 0.0, 5, 9),
            ValueError,
            'peak_value must not be 0',
        ),
        (lambda: torchopt.warmup_constant_schedule(0.0, 1.0, -1), ValueError, 'warmup_steps must'),
        (lambda: torchopt.sgdr_schedule([]), ValueError, 'cosine_kwargs is empty'),
        (lambda: torchopt.cosine_decay_schedule(1.0, 0), ValueError, 'decay_steps must be greater'),
        (
            lambda: torchopt.piecewise_interpolate_schedule('cubic', 1.0, {2: 0.5}),
            ValueError,
            "must be 'linear' or 'cosine', got 'cubic'",
        ),
        (
            lambda: torchopt.linear_onecycle_schedule(2, 1.0),
            ValueError,
            'boundaries_and_scales must be greater than 0',
        ),
    ],
)  # fmt: skip
def test_pieces_that_do_not_fit(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
