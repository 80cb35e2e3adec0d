"""What some ranks have saved, others go on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torchopt
from distributed.checkpoints import go_on
from support.ranks import on_ranks
from support.trees import assert_trees_equal
from torchopt.distributed import StateByName


@pytest.mark.slow
def test_two_ranks_save_and_four_or_one_go_on(tmp_path: Path) -> None:
    on_ranks(2, 'distributed.checkpoints:save', tmp_path)
    go_on(tmp_path)
    on_ranks(4, 'distributed.checkpoints:go_on', tmp_path)


def test_a_view_of_a_tree_takes_over_what_is_loaded() -> None:
    state = torchopt.adam().init({'w': torch.ones(2)})
    view = StateByName(state)
    view.load_state_dict({name: leaf + 1 for name, leaf in view.state_dict().items()})
    assert_trees_equal(view.state, torchopt.pytree.tree_map(lambda leaf: leaf + 1, state))
    with pytest.raises(ValueError, match=r'lacks 0\.mu\.w'):
        view.load_state_dict({'0.nu.w': torch.ones(2), '0.steps': torch.ones(1)})


def test_a_view_of_a_meta_optimizer_has_no_graph() -> None:
    net = torch.nn.Linear(2, 1)
    optimizer = torchopt.MetaAdam(net, lr=0.1)
    optimizer.step(net(torch.ones(3, 2)).square().mean())
    named = StateByName(optimizer).state_dict()
    assert not any(leaf.requires_grad for leaf in named.values())
    other = torchopt.MetaAdam(torch.nn.Linear(2, 1), lr=0.1)
    StateByName(other).load_state_dict(named)
    assert_trees_equal(StateByName(other).state, StateByName(optimizer).state)


@pytest.mark.parametrize(
    ('owner', 'message'),
    [
        (torchopt.Adam([torch.ones(1, requires_grad=True)], lr=0.1), 'get_optimizer_state_dict'),
        (torch.nn.Linear(1, 1), 'Linear needs no StateByName'),
        (torchopt.adam, 'takes a meta-optimizer or a state, got'),
    ],
)
def test_what_needs_no_view_is_refused(owner: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        StateByName(owner)
