"""States as ``torch.distributed.checkpoint`` saves and loads them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.authoring.state import state_from_dict, state_to_dict


@runtime_checkable
class _Owner(Protocol):
    """What keeps a state itself, such as a meta-optimizer."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


class StateByName:
    """A state, seen as a flat dictionary of its leaves by path.

    ``torch.distributed.checkpoint`` takes dictionaries apart and lets every rank save its own
    shards of each tensor; what is in a tuple it would pickle on one rank. A functional state, and
    the state of a meta-optimizer, is a tuple. This view is a
    ``torch.distributed.checkpoint.stateful.Stateful``: hand it over in the place of the state, to
    save and to load, on any number of ranks::

        dcp.save({'model': net.state_dict(), 'inner': StateByName(optimizer)}, checkpoint_id=...)

    Plain optimizers don't need it: torch's ``get_optimizer_state_dict`` takes them.

    Args:
        owner: A meta-optimizer; or a tree, such as the state of a functional optimizer or the
            carry of :func:`torchopt.unroll`.

    Attributes:
        state: The state as it is now, without its graph. After a tree was loaded, take the new
            one from here.

    Raises:
        TypeError: ``owner`` is a plain optimizer or a module, whose state is no tree.
        ValueError: two leaves have the same name; or, when a state is loaded, a leaf does not fit.

    Example:
        >>> import torch, torchopt
        >>> state = torchopt.adam().init({'w': torch.ones(2)})
        >>> list(torchopt.distributed.StateByName(state).state_dict())
        ['0.mu.w', '0.nu.w', '0.steps']
    """

    def __init__(self, owner: Any) -> None:
        if isinstance(owner, (torch.optim.Optimizer, torch.nn.Module)):
            raise TypeError(
                f'{type(owner).__name__} needs no StateByName: hand its own state to '
                'torch.distributed.checkpoint (of an optimizer, what get_optimizer_state_dict '
                'of torch.distributed.checkpoint.state_dict returns)'
            )
        if isinstance(owner, type) or callable(owner):
            raise TypeError(f'StateByName takes a meta-optimizer or a state, got {describe(owner)}')
        self._owner = owner if isinstance(owner, _Owner) else None
        self._tree: Any = None if self._owner is not None else owner

    @property
    def state(self) -> Any:
        """The state as it is now, without its graph."""
        tree: Any = self._tree if self._owner is None else self._owner.state_dict()
        return pytree.tree_map(
            lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf,
            tree,
            none_is_leaf=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the leaves by name. Loading writes into their memory."""
        return state_to_dict(self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the leaves of this dictionary.

        Raises:
            ValueError: a leaf is missing, left over, or does not fit.
        """
        state = state_from_dict(self.state, state_dict)
        if self._owner is None:
            self._tree = state
        else:
            self._owner.load_state_dict(state)
