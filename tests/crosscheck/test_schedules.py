"""Schedules against optax's, in float64, alone and as learning rates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import torchopt

jax.config.update('jax_enable_x64', True)

CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    'constant': ('constant_schedule', (0.3,)),
    'cosine': ('cosine_decay_schedule', (0.3, 5, 0.1, 1.5)),
    'cosine_onecycle': ('cosine_onecycle_schedule', (9, 0.3, 0.4, 5.0, 20.0)),
    'exponential': ('exponential_decay', (0.3, 2, 0.6)),
    'exponential-staircase': ('exponential_decay', (0.3, 2, 0.6, 1, True)),
    'exponential-bounded': ('exponential_decay', (0.3, 1, 0.6, 0, False, 0.1)),
    'linear': ('linear_schedule', (0.3, 0.01, 5)),
    'linear-later': ('linear_schedule', (0.3, 0.01, 4, 2)),
    'linear_onecycle': ('linear_onecycle_schedule', (9, 0.3, 0.25, 0.7, 5.0, 20.0)),
    'piecewise_constant': ('piecewise_constant_schedule', (0.3, {2: 0.5, 6: 0.1})),
    'piecewise-linear': ('piecewise_interpolate_schedule', ('linear', 0.3, {2: 0.5, 6: 0.1})),
    'piecewise-cosine': ('piecewise_interpolate_schedule', ('cosine', 0.3, {2: 0.5, 6: 0.1})),
    'polynomial': ('polynomial_schedule', (0.3, 0.01, 2, 5)),
    'sgdr': (
        'sgdr_schedule',
        ([
            {'init_value': 0.0, 'peak_value': 0.3, 'warmup_steps': 1, 'decay_steps': 4},
            {'init_value': 0.1, 'peak_value': 0.2, 'warmup_steps': 2, 'decay_steps': 5},
        ],),
    ),
    'warmup_constant': ('warmup_constant_schedule', (0.01, 0.3, 4)),
    'warmup_cosine': ('warmup_cosine_decay_schedule', (0.01, 0.3, 3, 8, 0.02, 1.5)),
    'warmup_cosine-without': ('warmup_cosine_decay_schedule', (0.01, 0.3, 0, 8)),
    'warmup_exponential': (
        'warmup_exponential_decay_schedule', (0.01, 0.3, 3, 2, 0.6, 1, True, 0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize('label', CALLS)
def test_values(label: str) -> None:
    name, arguments = CALLS[label]
    mine, theirs = (getattr(library, name)(*arguments) for library in (torchopt, optax))
    for count in range(12):
        expected = theirs(jnp.asarray(count, jnp.float64))
        np.testing.assert_allclose(mine(count).item(), expected, rtol=1e-12, atol=1e-15)


def test_joined() -> None:
    def joined(library: Any) -> Any:
        first, second = library.linear_schedule(0.3, 0.1, 4), library.cosine_decay_schedule(0.2, 3)
        return library.join_schedules([first, second], [3])

    for count in range(8):
        expected = joined(optax)(jnp.asarray(count, jnp.float64))
        np.testing.assert_allclose(joined(torchopt)(count).item(), expected, rtol=1e-12, atol=1e-15)


def test_no_schedule_is_missing() -> None:
    names = {name for name, _ in CALLS.values()} | {'join_schedules'}
    theirs = {
        name
        for name in dir(optax.schedules)
        if name.endswith(('_schedule', '_decay')) and not name.startswith('_')
    }
    assert theirs <= names <= {*torchopt.schedule.__all__}


def test_as_a_learning_rate() -> None:
    """The first update has the count 0 in both."""
    mine, theirs = (library.linear_schedule(0.3, 0.01, 5) for library in (torchopt, optax))
    gradient = np.asarray([1.0, -2.0])
    # optax counts in int32, and JAX's division of int32 gives float32.
    ours, other = torchopt.adam(mine), optax.adam(lambda count: theirs(count.astype(jnp.float64)))
    state, other_state = ours.init(torch.tensor(gradient)), other.init(jnp.asarray(gradient))
    for _ in range(8):
        found, state = ours.update(torch.tensor(gradient), state, inplace=False)
        expected, other_state = other.update(jnp.asarray(gradient), other_state)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
