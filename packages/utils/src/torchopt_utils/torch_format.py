"""The state of an optimizer in the format of ``torch.optim``.

It is a dictionary with the keys ``state`` and ``param_groups``. Optimizers with this format write
into the tensors of their state at every step. Neither an extracted state nor the one that is
recovered from it may share such a tensor with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch

from torchopt import pytree
from torchopt_utils.copying import copier, keeper
from torchopt_utils.targets import Stateful


def is_torch_format(state: object) -> bool:
    """Tell whether ``state`` is what the ``state_dict`` of a torch optimizer returns."""
    return isinstance(state, Mapping) and 'state' in state and 'param_groups' in state


def load(optimizer: Stateful, state: Any, *, keep_learned: bool = True) -> None:
    """Let ``optimizer`` take over ``state``, so that its steps leave ``state`` as it is.

    Args:
        optimizer: Its ``load_state_dict`` judges whether the state fits.
        state: In any format.
        keep_learned: Write the value of a detached hyperparameter into the tensor that is learned
            in its place, if there is one, so that it goes on to be learned.
    """
    if is_torch_format(state):
        _load_torch_format(optimizer, state, keep_learned)
    else:
        optimizer.load_state_dict(copier('reference').tree(state))


def _load_torch_format(optimizer: Any, state: Mapping[str, Any], keep_learned: bool) -> None:
    own = keeper().tree(dict(state))
    before = [dict(group) for group in getattr(optimizer, 'param_groups', ())]
    # load_state_dict makes a deepcopy of the hyperparameters. It would refuse a tensor with a graph
    # and disconnect a learned one.
    optimizer.load_state_dict({**own, 'param_groups': _detached(own['param_groups'])})
    for position, given in enumerate(own['param_groups']):
        for name, value in given.items():
            if not any(getattr(leaf, 'requires_grad', False) for leaf in pytree.tree_leaves(value)):
                continue
            learned = before[position].get(name)
            if keep_learned and _is_learned(learned) and _is_learned(value):
                if learned is not value:
                    with torch.no_grad():
                        learned.copy_(value)
                value = learned
            optimizer.param_groups[position][name] = value


def _is_learned(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad


def _detached(tree: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf,
        tree,
        none_is_leaf=True,
    )
