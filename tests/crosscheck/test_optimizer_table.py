"""The page that sets the optimizers beside optax's: names, defaults, and what it says of steps."""

from __future__ import annotations

import inspect
from operator import attrgetter

import jax.numpy as jnp
import optax
import pytest

import torchopt
from crosscheck.test_optax import assert_same as assert_same_trees
from crosscheck.test_optax import jax_adapted, my_adapted, to_jax
from support.optimizer_page import NAMES, OPTIONS, PAGE, assert_same, call_of, calls
from support.unrolled import META, START

LEFT_OUT = frozenset({'mu_dtype', 'dtype_momentum', 'accumulator_dtype'})
IN_OPTAX = {name: names.optax[0] for name, names in NAMES.items() if names.optax}


def test_the_page_is_about_this_version() -> None:
    assert f'optax {optax.__version__};' in PAGE.read_text()


@pytest.mark.parametrize('name', IN_OPTAX)
def test_calls_and_defaults(name: str) -> None:
    dotted = IN_OPTAX[name]
    assert_same(calls(name)[f'optax.{dotted}'], call_of(attrgetter(dotted)(optax), LEFT_OUT))


@pytest.mark.parametrize('name', sorted(set(NAMES) - set(IN_OPTAX)))
def test_optax_does_not_have_the_others(name: str) -> None:
    assert not hasattr(optax, name)
    assert not hasattr(optax.contrib, name)


def test_options() -> None:
    names = set().union(
        *(inspect.signature(attrgetter(name)(optax)).parameters for name in IN_OPTAX.values())
    )
    for _, _, there in OPTIONS.values():
        assert all(name in names or hasattr(optax, name) for name in there)


def test_nadam_with_a_constant_momentum() -> None:
    theirs = jax_adapted(optax.nadam(0.1), to_jax(META), to_jax(START), 30)
    assert_same_trees(my_adapted(torchopt.nadam(0.1, momentum_decay=1e4), 30), theirs, 1e-11)


def test_rprop_of_optax_is_late() -> None:
    """When this fails, optax has been mended: change the page, and compare trajectories."""
    optimizer, zero = optax.rprop(0.1), jnp.zeros(2)
    state = optimizer.init(zero)
    first, state = optimizer.update(jnp.array([1.0, -2.0]), state)
    second, _ = optimizer.update(jnp.array([1.0, -2.0]), state)
    assert not first.any()
    assert second.tolist() == [-0.1, 0.1]
