"""Trees that do not fit: the error names the leaf, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase
from support.trees import assert_trees_equal, copied
from torchopt import pytree

FLOAT = r'must be a floating-point tensor or None, got'
BAD_PARAMS = [
    ({'a': torch.ones(2), 'b': 1.0}, rf"^params\['b'\] {FLOAT} float 1.0"),
    ({'a': [torch.ones(2), 'x']}, rf"^params\['a'\]\[1\] {FLOAT} str 'x'"),
    (
        {'a': torch.ones(2, dtype=torch.int64)},
        rf"^params\['a'\] {FLOAT} a tensor of shape .*, torch.int64",
    ),
    ([torch.ones(2, dtype=torch.bool)], rf'^params\[0\] {FLOAT} a tensor of shape .*, torch.bool'),
    (
        torch.ones(2, dtype=torch.complex64),
        rf'^params {FLOAT} a tensor of shape .*, torch.complex64',
    ),
]


def params() -> Any:
    return {'a': torch.tensor([0.5, -1.0]), 'b': torch.tensor([[2.0]])}


@pytest.mark.parametrize(('bad', 'message'), BAD_PARAMS, ids=range(len(BAD_PARAMS)))
@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_init_takes_floating_point_tensors(case: OptimizerCase, bad: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        case.make().init(bad)


BAD_UPDATES = {
    'other key': ({'a': torch.ones(2), 'c': torch.ones(1)}, (ValueError, 'differ in structure')),
    'missing key': ({'a': torch.ones(2)}, (ValueError, 'structure|updates have 1 leaves')),
    'list': ([torch.ones(2), torch.ones(1)], (ValueError, 'differ in structure')),
    'number': ({'a': torch.ones(2), 'b': 1.0}, (TypeError, rf"updates\['b'\] {FLOAT} float 1.0")),
    'integers': (
        {'a': torch.ones(2), 'b': torch.ones(1, dtype=torch.int64)},
        (TypeError, rf"updates\['b'\] {FLOAT} "),
    ),
    'shape': ({'a': torch.ones(2), 'b': torch.ones(3, 1)}, (ValueError, r"\['b'\] does not fit")),
    'broadcastable': (
        {'a': torch.ones(2), 'b': torch.ones(4, 1)},
        (ValueError, r"\['b'\] does not fit updates\['b'\]"),
    ),
    'dtype': (
        {'a': torch.ones(2), 'b': torch.ones(1, dtype=torch.float64)},
        (ValueError, r"\['b'\] does not fit updates\['b'\].*float32.*float64"),
    ),
}


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('kind', BAD_UPDATES)
@pytest.mark.parametrize('case', [c for c in CASES if c.label.startswith('all')], ids=str)
def test_gradients_that_do_not_fit(case: OptimizerCase, kind: str, inplace: bool) -> None:
    updates, (error, message) = BAD_UPDATES[kind]
    updates = copied(updates)
    optimizer = case.make()
    state = optimizer.init(params())
    before = copied((updates, state))
    with pytest.raises(error, match=message):
        optimizer.update(updates, state, params=params(), inplace=inplace)
    assert_trees_equal((updates, state), before)


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('case', [c for c in CASES if c.value('weight_decay')], ids=str)
def test_weight_decay_needs_parameters(case: OptimizerCase, inplace: bool) -> None:
    optimizer = case.make()
    state, gradients = optimizer.init(params()), params()
    before = copied((gradients, state))
    if case.has('mask') and case.value('mask') is not None:
        optimizer = case.make(mask=True)
    with pytest.raises(ValueError, match=r'(weight decay|this rule) needs the parameters'):
        optimizer.update(gradients, state, inplace=inplace)
    with pytest.raises(ValueError, match=r"params and updates differ in structure.*'b'"):
        optimizer.update(gradients, state, params={'a': torch.ones(2)}, inplace=inplace)
    with pytest.raises(ValueError, match=r"params\['b'\] does not fit updates\['b'\]"):
        optimizer.update(
            gradients, state, params={'a': torch.ones(2), 'b': torch.ones(())}, inplace=inplace
        )
    assert_trees_equal((gradients, state), before)


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('case', [c for c in CASES if c.label.startswith('all')], ids=str)
def test_states_that_do_not_fit(case: OptimizerCase, inplace: bool) -> None:
    optimizer, gradients = case.make(), params()
    state = optimizer.init(params())
    wrong = r'state must be a \w+, as returned by init, got '
    for other in ((), None, state[0], state[:-1], {'a': 1}):
        chained = f'a chain of {len(state)} transformations needs'
        with pytest.raises((ValueError, TypeError), match=f'{chained}|{wrong}'):
            optimizer.update(gradients, other, params=params(), inplace=inplace)
    with pytest.raises(TypeError, match=wrong):
        optimizer.update(gradients, (None,) * len(state), params=params(), inplace=inplace)
    other_shape = optimizer.init({'a': torch.ones(2), 'b': torch.ones(3, 1)})
    with pytest.raises(ValueError, match=r"\w+\['b'\] does not fit updates\['b'\]"):
        optimizer.update(gradients, other_shape, params=params(), inplace=inplace)
    assert_trees_equal(gradients, params())


def test_a_state_for_a_tree_of_rates_is_not_one_for_one_rate() -> None:
    rates = pytree.tree_map(lambda leaf: torch.full_like(leaf, 0.1), params())
    state = torchopt.asgd(rates).init(params())
    with pytest.raises(ValueError, match='eta of the state must be a vector of 2 numbers'):
        torchopt.asgd(0.1).update(params(), state, params=params(), inplace=False)


def test_leaves_of_a_state_must_be_tensors() -> None:
    optimizer = torchopt.transform.scale_by_adam()
    state = optimizer.init(params())
    with pytest.raises(ValueError, match=r"mu\['a'\] does not fit updates\['a'\]: str 'x' against"):
        optimizer.update(params(), state._replace(mu={'a': 'x', 'b': None}))


@pytest.mark.parametrize('case', MAIN_CASES, ids=str)
def test_rates_that_do_not_fit(case: OptimizerCase) -> None:
    optimizer = case.make(lr={'a': torch.ones(2)})
    with pytest.raises(ValueError, match=r'lr and (updates|params) differ in structure'):
        optimizer.update(params(), optimizer.init(params()), params=params())
    optimizer = case.make(lr=torch.ones(1))
    with pytest.raises(ValueError, match=r'lr is a tensor of shape \(1,\).* Pass a 0-dim tensor'):
        optimizer.update(params(), optimizer.init(params()), params=params())
    optimizer = case.make(lr=pytree.tree_map(lambda x: torch.ones(7, 1), params()))
    with pytest.raises(
        ValueError, match=r"lr\['a'\] does not fit (updates|params)\['a'\] of shape"
    ):
        optimizer.update(params(), optimizer.init(params()), params=params())
