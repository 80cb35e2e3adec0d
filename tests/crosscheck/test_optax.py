"""Trajectories and meta-gradients against optax under JAX, in float64.

Run by ``nox -s crosscheck``, whose environment has both libraries.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import torchopt
from support.unrolled import META, START, STEPS, functional_meta_loss, inner_loss
from torchopt import pytree

jax.config.update('jax_enable_x64', True)


class Pair(NamedTuple):
    """The same optimizer twice, each as a function of the learning rate."""

    label: str
    mine: Any
    theirs: Any


MASK = {'w': True, 'b': False}
SCHEDULES = {
    'linear': (torchopt.linear_schedule, optax.linear_schedule, (0.3, 0.01, 5)),
    'linear_later': (torchopt.linear_schedule, optax.linear_schedule, (0.3, 0.01, 4, 2)),
    'polynomial': (torchopt.polynomial_schedule, optax.polynomial_schedule, (0.3, 0.01, 2, 5)),
    'exponential': (torchopt.exponential_decay, optax.exponential_decay, (0.3, 2, 0.6)),
    'staircase': (torchopt.exponential_decay, optax.exponential_decay, (0.3, 2, 0.6, 1, True)),
    'bounded': (torchopt.exponential_decay, optax.exponential_decay, (0.3, 1, 0.6, 0, False, 0.1)),
}


def decayed(weight_decay: float, make: Any) -> Any:
    return lambda lr: optax.chain(optax.add_decayed_weights(weight_decay), make(lr))


# eps is 0 where optax and torch place it differently: optax's AdaGrad has it under the root, its
# RAdam after the bias correction. AMSGrad is left out: optax takes the maximum of corrected
# moments.
PAIRS = [
    Pair('sgd', torchopt.sgd, optax.sgd),
    Pair('momentum', partial(torchopt.sgd, momentum=0.7), partial(optax.sgd, momentum=0.7)),
    Pair(
        'nesterov',
        partial(torchopt.sgd, momentum=0.7, nesterov=True),
        partial(optax.sgd, momentum=0.7, nesterov=True),
    ),
    Pair(
        'sgd-weight_decay',
        partial(torchopt.sgd, momentum=0.7, weight_decay=0.1),
        decayed(0.1, partial(optax.sgd, momentum=0.7)),
    ),
    Pair(
        'adam',
        partial(torchopt.adam, betas=(0.8, 0.95), eps=1e-3),
        partial(optax.adam, b1=0.8, b2=0.95, eps=1e-3),
    ),
    Pair(
        'adam-eps_root',
        partial(torchopt.adam, eps_root=1e-2),
        partial(optax.adam, eps_root=1e-2),
    ),
    Pair(
        'adam-weight_decay',
        partial(torchopt.adam, eps_root=1e-8, weight_decay=0.1),
        decayed(0.1, partial(optax.adam, eps_root=1e-8)),
    ),
    Pair(
        'adamw',
        partial(torchopt.adamw, weight_decay=0.1, eps_root=1e-4),
        partial(optax.adamw, weight_decay=0.1, eps_root=1e-4),
    ),
    Pair(
        'adamw-mask',
        partial(torchopt.adamw, weight_decay=0.1, mask=MASK),
        partial(optax.adamw, weight_decay=0.1, mask=MASK),
    ),
    Pair(
        'adam-decoupled',
        partial(torchopt.adam, weight_decay=0.1, decoupled_weight_decay=True),
        partial(optax.adamw, weight_decay=0.1),
    ),
    Pair(
        'adamax',
        partial(torchopt.adamax, betas=(0.8, 0.95), eps=1e-3),
        partial(optax.adamax, b1=0.8, b2=0.95, eps=1e-3),
    ),
    Pair(
        'radam',
        partial(torchopt.radam, betas=(0.9, 0.9), eps=0.0),
        partial(optax.radam, b1=0.9, b2=0.9, eps=0.0),
    ),
    Pair(
        'rmsprop',
        partial(torchopt.rmsprop, alpha=0.9, eps=1e-3),
        partial(optax.rmsprop, decay=0.9, eps=1e-3, eps_in_sqrt=False),
    ),
    Pair(
        'rmsprop-centered',
        partial(torchopt.rmsprop, alpha=0.9, centered=True),
        partial(optax.rmsprop, decay=0.9, centered=True, eps_in_sqrt=False),
    ),
    Pair(
        'rmsprop-momentum',
        partial(torchopt.rmsprop, alpha=0.9, momentum=0.7, nesterov=True, initial_scale=0.5),
        partial(
            optax.rmsprop,
            decay=0.9,
            momentum=0.7,
            nesterov=True,
            initial_scale=0.5,
            eps_in_sqrt=False,
        ),
    ),
    Pair(
        'adagrad',
        partial(torchopt.adagrad, eps=0.0, initial_accumulator_value=0.2),
        partial(optax.adagrad, eps=0.0, initial_accumulator_value=0.2),
    ),
    Pair(
        'adadelta',
        partial(torchopt.adadelta, rho=0.8, eps=1e-3),
        partial(optax.adadelta, rho=0.8, eps=1e-3),
    ),
]
pairs = pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair.label)
# optax's RAdam discards the root of a negative number, but its derivative is still NaN.
differentiable_pairs = pytest.mark.parametrize(
    'pair', [pair for pair in PAIRS if pair.label != 'radam'], ids=lambda pair: pair.label
)


def to_jax(tree: Any) -> Any:
    return pytree.tree_map(lambda x: jnp.asarray(x.numpy()), tree)


def jax_inner_loss(phi: Any, params: Any) -> Any:
    """``support.unrolled.inner_loss``."""
    hidden = jnp.tanh(params['w'] @ phi[:2] + params['b'])
    return ((hidden - phi[2]) ** 2).sum() + 0.1 * (params['w'] ** 2).sum()


def jax_adapted(optimizer: Any, phi: Any, params: Any, steps: int) -> Any:
    state = optimizer.init(params)
    for _ in range(steps):
        gradients = jax.grad(jax_inner_loss, argnums=1)(phi, params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def jax_meta_loss(make: Any, phi: Any, params: Any, lr: Any) -> Any:
    """``support.unrolled.functional_meta_loss``."""
    adapted = jax_adapted(make(lr), phi, params, STEPS)
    return sum(jnp.sin(2 * leaf).sum() for leaf in jax.tree.leaves(adapted))


def my_adapted(optimizer: torchopt.GradientTransformation, steps: int) -> Any:
    params, state = START, optimizer.init(START)
    for _ in range(steps):
        gradients = torch.func.grad(inner_loss, argnums=1)(META, params)
        updates, state = optimizer.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


def assert_same(mine: Any, theirs: Any, tolerance: float) -> None:
    leaves, structure = pytree.tree_flatten(mine)
    other_leaves, other_structure = pytree.tree_flatten(theirs)
    assert structure == other_structure
    for a, b in zip(leaves, other_leaves):
        assert b.dtype == np.float64
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=tolerance, atol=tolerance)


@pairs
def test_trajectory(pair: Pair) -> None:
    theirs = jax_adapted(pair.theirs(0.1), to_jax(META), to_jax(START), 30)
    assert_same(my_adapted(pair.mine(lr=0.1), 30), theirs, 1e-11)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_schedules(schedule: str) -> None:
    make, make_theirs, arguments = SCHEDULES[schedule]
    mine, theirs = make(*arguments), make_theirs(*arguments)
    for count in range(12):
        np.testing.assert_allclose(mine(count).item(), theirs(jnp.asarray(count)), rtol=1e-12)
    # optax counts in int32, and JAX's division of int32 gives float32.
    exact = optax.adam(lambda count: theirs(count.astype(jnp.float64)))
    expected = jax_adapted(exact, to_jax(META), to_jax(START), 12)
    assert_same(my_adapted(torchopt.adam(lr=mine), 12), expected, 1e-11)


@differentiable_pairs
def test_meta_gradient(pair: Pair) -> None:
    """With respect to the meta-parameters, the initial parameters and the learning rate."""

    def meta_loss(phi: torch.Tensor, params: Any, lr: torch.Tensor) -> torch.Tensor:
        return functional_meta_loss(pair.mine(lr=lr), phi, params)

    lr = torch.tensor(0.1, dtype=torch.float64)
    mine = torch.func.grad(meta_loss, argnums=(0, 1, 2))(META, START, lr)
    theirs = jax.grad(partial(jax_meta_loss, pair.theirs), argnums=(0, 1, 2))(
        to_jax(META), to_jax(START), jnp.asarray(0.1, dtype=jnp.float64)
    )
    assert_same(mine, theirs, 1e-10)


@differentiable_pairs
def test_second_derivative_of_the_unroll(pair: Pair) -> None:
    def meta_loss(phi: torch.Tensor) -> torch.Tensor:
        return functional_meta_loss(pair.mine(lr=0.1), phi, START)

    theirs = jax.hessian(lambda phi: jax_meta_loss(pair.theirs, phi, to_jax(START), 0.1))
    assert_same(torch.func.hessian(meta_loss)(META), theirs(to_jax(META)), 1e-9)
