"""The state of an optimizer in the format of ``torch.optim``.

It is a dictionary with the keys ``state`` and ``param_groups``. Optimizers with this format write
into the tensors of their state at every step. Neither an extracted state nor the one that is
recovered from it may share such a tensor with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchopt import pytree
from torchopt_utils.copying import copier, keeper
from torchopt_utils.targets import Stateful


def is_torch_format(state: object) -> bool:
    """Tell whether ``state`` is what the ``state_dict`` of a torch optimizer returns."""
    return isinstance(state, Mapping) and 'state' in state and 'param_groups' in state


def load(optimizer: Stateful, state: Any) -> None:
    """Let ``optimizer`` take over ``state``, so that its steps leave ``state`` as it is.

    Raises:
        ValueError: ``load_state_dict`` of the optimizer refuses the state.
    """
    if is_torch_format(state):
        _load_torch_format(optimizer, state)
    else:
        optimizer.load_state_dict(copier('reference').tree(state))


def _load_torch_format(optimizer: Any, state: Mapping[str, Any]) -> None:
    own = keeper().tree(dict(state))
    # load_state_dict makes a deepcopy of the hyperparameters. It would refuse a tensor with a graph
    # and disconnect a learned one.
    optimizer.load_state_dict({**own, 'param_groups': _detached(own['param_groups'])})
    for position, given in enumerate(own['param_groups']):
        for name, value in given.items():
            if any(getattr(leaf, 'requires_grad', False) for leaf in pytree.tree_leaves(value)):
                optimizer.param_groups[position][name] = value


def _detached(tree: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf,
        tree,
        none_is_leaf=True,
    )
