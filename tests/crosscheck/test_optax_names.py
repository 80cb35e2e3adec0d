"""The page that sets the optimizers beside optax's: its names, arguments and defaults are real."""

from __future__ import annotations

import inspect
from operator import attrgetter

import optax
import pytest

from support.optimizer_page import NAMES, OPTIONS, PAGE, assert_same, call_of, calls

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
