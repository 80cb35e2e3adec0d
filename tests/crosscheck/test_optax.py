"""Trajectories and meta-gradients against optax under JAX, in float64.

Run by ``nox -s crosscheck``, whose environment has both libraries.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import torchopt
from crosscheck.block_pairs import BLOCK_PAIRS
from crosscheck.pairs import PAIRS, Pair
from support.unrolled import META, START, STEPS, functional_meta_loss, inner_loss
from torchopt import pytree

jax.config.update('jax_enable_x64', True)


ALL = [*PAIRS, *BLOCK_PAIRS]
pairs = pytest.mark.parametrize('pair', ALL, ids=lambda pair: pair.label)
# optax's RAdam discards the root of a negative number, but its derivative is still NaN.
differentiable_pairs = pytest.mark.parametrize(
    'pair', [pair for pair in ALL if pair.label != 'radam'], ids=lambda pair: pair.label
)

# JAX takes seconds for each. Core's own tests hold the second derivatives of all against
# differences of the first ones.
TWICE = [pair for pair in PAIRS if pair.label in {'momentum', 'adam', 'adadelta', 'adan', 'lamb'}]


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
    theirs = jax_adapted(pair.theirs(0.1), to_jax(META), to_jax(START), 12)
    assert_same(my_adapted(pair.mine(lr=0.1), 12), theirs, 1e-11)


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


@pytest.mark.parametrize('pair', TWICE, ids=lambda pair: pair.label)
def test_second_derivative_of_the_unroll(pair: Pair) -> None:
    def meta_loss(phi: torch.Tensor) -> torch.Tensor:
        return functional_meta_loss(pair.mine(lr=0.1), phi, START)

    theirs = jax.hessian(lambda phi: jax_meta_loss(pair.theirs, phi, to_jax(START), 0.1))
    assert_same(torch.func.hessian(meta_loss)(META), theirs(to_jax(META)), 1e-9)
