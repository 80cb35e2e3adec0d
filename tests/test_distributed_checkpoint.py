"""``torch.distributed.checkpoint`` saves all of a state, or says that it can't."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import torchopt
from support.ranks import on_ranks
from support.sharded import Net, meta_steps, plain_steps, resumed_meta
from support.trees import assert_trees_equal
from torchopt.authoring.state import state_from_dict, state_to_dict
from torchopt.registry import OPTIMIZERS, OptimizerEntry


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:torch.distributed is disabled:UserWarning')
def test_a_sharded_state_is_refused_as_a_tuple_and_saved_by_name(tmp_path: Path) -> None:
    on_ranks(2, 'support.sharded:save_and_resume_meta', tmp_path)
    expected = Net()
    meta_steps(expected, torchopt.MetaAdam(expected, lr=0.1), 5)
    alone = resumed_meta(tmp_path)  # what two ranks have saved, in one process
    torch.testing.assert_close(alone.w, expected.w)
    torch.testing.assert_close(alone.b, expected.b)


@pytest.mark.slow
def test_a_sharded_plain_optimizer_goes_through_torch(tmp_path: Path) -> None:
    on_ranks(2, 'support.sharded:save_and_resume_plain', tmp_path)


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_a_plain_optimizer_goes_through_torch_in_one_process(entry: OptimizerEntry) -> None:
    net, again, expected = Net(), Net(), Net()
    make = getattr(torchopt, entry.class_name)
    optimizer = make(net.parameters(), lr=0.1)
    plain_steps(net, optimizer, 3)
    state = get_optimizer_state_dict(net, optimizer)
    # By qualified names, and independent of what comes later.
    assert all(group['params'] == ['w', 'b'] for group in state['param_groups'])
    state, weights = copy.deepcopy((state, net.state_dict()))
    plain_steps(net, optimizer, 1)

    again.load_state_dict(weights)
    other = make(again.parameters(), lr=0.3)
    set_optimizer_state_dict(again, other, state)
    assert other.param_groups[0]['lr'] == 0.1
    plain_steps(again, other, 2)
    plain_steps(expected, make(expected.parameters(), lr=0.1), 5)
    torch.testing.assert_close(again.w, expected.w)
    torch.testing.assert_close(again.b, expected.b)


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_a_state_goes_to_names_and_back(entry: OptimizerEntry) -> None:
    params = {'layer.w': torch.ones(2), 'b': [torch.ones(()), None]}
    state = torchopt.chain(torchopt.clip_grad_norm(1.0), entry.factory(lr=0.1)).init(params)
    named = state_to_dict(state)
    assert all(isinstance(leaf, torch.Tensor) for leaf in named.values())
    back = state_from_dict(state, named)
    assert_trees_equal(back, state)
    assert type(back) is type(state)


def test_names_are_paths() -> None:
    state = torchopt.adam().init({'layer.w': torch.ones(2), 'b': None})
    assert [*state_to_dict(state)] == ['0.mu.layer.w', '0.nu.layer.w', '0.steps']


def test_two_leaves_of_one_name_are_refused() -> None:
    state = torchopt.adam().init({'a.b': torch.ones(2), 'a': {'b': torch.ones(2)}})
    with pytest.raises(ValueError, match=r"two leaves of the state are called '0\.mu\.a\.b'"):
        state_to_dict(state)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda named: named.pop('0.mu.w'), r'lacks 0\.mu\.w$'),
        (lambda named: named.update(extra=1), r'has a stray extra$'),
        (lambda named: named.update({'0.mu.w': torch.ones(3)}), r"^state\[0\]\.mu\['w'\] does not"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused(change, message: str) -> None:
    state = torchopt.adam().init({'w': torch.ones(2)})
    named = state_to_dict(state)
    change(named)
    with pytest.raises(ValueError, match=message):
        state_from_dict(state, named)


def test_states_are_copied_and_pickled_as_before() -> None:
    state = torchopt.adam().init({'w': torch.ones(2)})
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert_trees_equal(other, state)
        assert type(other[0]) is type(state[0])
