"""Restriction of a transformation to some of the parameters."""

from __future__ import annotations

from typing import Any

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.columns import in_container_of
from torchopt.authoring.origin import recorded
from torchopt.authoring.transformation import transformation
from torchopt.base import GradientTransformation
from torchopt.typing import Mask, OptState, Params, TensorTree


@recorded
def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is true; other updates pass through unchanged.

    Args:
        inner: The transformation to restrict. Where the mask is false it sees None, which stands
            for an absent parameter.
        mask: A tree of bools with the structure of the parameters (or a prefix of it), or a
            function from the parameters to such a tree. If ``update`` is called without
            ``params``, the function gets the updates.

    Raises:
        ValueError: the mask has another structure than the parameters.
        TypeError: a leaf of the mask is not a bool.
    """

    def init(params: Params) -> OptState:
        return inner.init(_choose(mask(params) if checks.is_function(mask) else mask, params))

    def update(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
        flags = mask(updates if params is None else params) if checks.is_function(mask) else mask
        # Take a list for the tuple that torch.autograd.grad returns, as everywhere.
        flags, params = (in_container_of(updates, tree) for tree in (flags, params))
        chosen = _choose(flags, updates)
        if chosen is None:  # a bare tensor, masked; params=None would mean that params are missing
            return updates, state
        inner_updates, state = inner.update(
            chosen,
            state,
            params=None if params is None else _choose(flags, params),
            inplace=False,
        )
        return _merge(flags, inner_updates, updates), state

    return transformation(init, update)


def _choose(flags: TensorTree, tree: TensorTree) -> TensorTree:
    return _merge(flags, tree, pytree.tree_map(lambda leaf: None, tree, none_is_leaf=True))


def _merge(flags: TensorTree, chosen: TensorTree, otherwise: TensorTree) -> TensorTree:
    def pick(flag: Any, yes: Any, no: Any) -> Any:
        if yes is None and no is None:
            return None
        if not isinstance(flag, bool):
            raise TypeError(f'the leaves of a mask must be bools, got {flag!r}')
        return yes if flag else no

    try:
        return pytree.tree_map(pick, flags, chosen, otherwise, none_is_leaf=True)
    except ValueError as error:
        raise ValueError(f'the mask does not fit: {error}') from None
