"""Restriction of a transformation to some of the parameters."""

from __future__ import annotations

from typing import Any

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import in_container_of, transformation
from torchopt.base import GradientTransformation
from torchopt.typing import Mask, OptState, Params, TensorTree


@recorded
def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is true; other updates pass through unchanged.

    Args:
        inner: Sees None, which stands for an absent parameter, where the mask is false.
        mask: A tree of bools with the structure of the parameters (or a prefix of it), or a
            function that makes one from the parameters; where ``update`` is called without
            ``params``, from the updates.

    Raises:
        ValueError: the mask has another structure than the parameters.
        TypeError: a leaf of the mask is not a bool.
    """

    def init(params: Params) -> OptState:
        return inner.init(_choose(mask(params) if checks.is_function(mask) else mask, params))

    def update(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
        flags = mask(updates if params is None else params) if checks.is_function(mask) else mask
        # A list and the tuple of torch.autograd.grad go together, as everywhere.
        flags, params = (in_container_of(updates, tree) for tree in (flags, params))
        chosen = _choose(flags, updates)
        if chosen is None:  # a bare tensor; its params become None, which would mean missing
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
            raise TypeError(f'a mask has bools at its leaves, got {flag!r}')
        return yes if flag else no

    try:
        return pytree.tree_map(pick, flags, chosen, otherwise, none_is_leaf=True)
    except ValueError as error:
        raise ValueError(f'the mask does not fit: {error}') from None
