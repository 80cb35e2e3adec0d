"""The algebra of chain and identity, as equality and as behaviour."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchopt
from support.trees import assert_trees_equal, sample_gradients, sample_params
from torchopt.base import ChainedGradientTransformation, EmptyState, chain, identity

MEMBERS = [
    identity(),
    torchopt.sgd(lr=0.1, momentum=0.9),
    torchopt.adam(weight_decay=0.1),
    torchopt.clip_grad_norm(0.5),
    torchopt.transform.scale(-2.0),
    torchopt.transform.scale_by_schedule(torchopt.linear_schedule(1.0, 0.0, 3)),
]
members = st.sampled_from(MEMBERS)
chains = st.recursive(members, lambda inner: st.lists(inner, max_size=3).map(lambda m: chain(*m)))


def behaviour(transformation: torchopt.GradientTransformation) -> Any:
    params = sample_params()
    state = transformation.init(params)
    seen = []
    for step in range(3):
        updates, state = transformation.update(
            sample_gradients(params, step), state, params=params, inplace=False
        )
        seen.append(updates)
    return seen


@given(chains, chains, chains)
def test_chain_is_associative(a: Any, b: Any, c: Any) -> None:
    left, right = chain(chain(a, b), c), chain(a, chain(b, c))
    assert left == right
    assert (left != right) is False
    assert left == chain(a, b, c)
    assert hash(left) == hash(right)
    assert left == a.chain(b).chain(c)
    assert_trees_equal(behaviour(left), behaviour(right))


@given(chains)
def test_identity_is_neutral(a: Any) -> None:
    assert chain(identity(), a) == chain(a, identity()) == chain(a) == a
    assert identity().chain(a) == a
    assert_trees_equal(behaviour(chain(identity(), a)), behaviour(a))


@given(st.lists(members, max_size=4))
def test_chain_behaves_as_its_members_in_turn(parts: list[Any]) -> None:
    params = sample_params()
    updates = expected = sample_gradients(params, 0)
    whole = chain(*parts)
    updates, _ = whole.update(updates, whole.init(params), params=params, inplace=False)
    for part in parts:
        expected, _ = part.update(expected, part.init(params), params=params, inplace=False)
    assert_trees_equal(updates, expected)


def test_empty_chain_is_the_identity() -> None:
    assert chain() == identity()
    gradients = sample_gradients(sample_params(), 0)
    updates, state = identity().update(gradients, identity().init(sample_params()))
    assert updates is gradients
    assert state == EmptyState()


def test_different_chains_differ() -> None:
    a, b = torchopt.transform.scale(1.0), torchopt.transform.scale(1.0)
    assert chain(a, b) != chain(b, a)
    assert chain(a, b) != a
    assert chain(a, b) != (a, b)
    assert chain(a, b) != 'a chain'


def test_the_identity_is_copied_as_itself() -> None:
    assert copy.deepcopy(identity()) == identity()
    assert copy.copy(identity()) == identity()


def test_chain_exposes_its_parts() -> None:
    a, b = torchopt.transform.scale(1.0), torchopt.transform.scale(2.0)
    chained = chain(a, chain(identity(), b))
    assert isinstance(chained, ChainedGradientTransformation)
    assert chained.transformations == (a, b)


def test_only_transformations_are_chained() -> None:
    with pytest.raises(TypeError, match='got function as argument 1'):
        chain(identity(), torchopt.adam)


@pytest.mark.parametrize('state', [(), (EmptyState(),), EmptyState(), [EmptyState()] * 2, None])
def test_state_of_another_chain(state: Any) -> None:
    chained = chain(torchopt.transform.scale(1.0), torchopt.transform.scale(2.0))
    with pytest.raises(ValueError, match='chain of 2 transformations needs the tuple of 2 states'):
        chained.update(torch.ones(1), state)
