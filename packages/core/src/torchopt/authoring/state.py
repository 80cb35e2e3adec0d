"""States that can be saved, and the check that a loaded state fits."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, TypeVar, cast

import torch

from torchopt import pytree
from torchopt.authoring.describe import alike, describe, enumerate_few
from torchopt.typing import TensorTree

Class = TypeVar('Class', bound='type[tuple[Any, ...]]')


def saveable(state_class: Class) -> Class:
    """Let ``torch.load`` read states of this class with ``weights_only=True``, its default.

    ``torch.distributed.checkpoint`` takes apart dictionaries and lists, but no tuples: it pickles
    them on one rank, and would lose the shards of the others. Pickling by it raises, therefore,
    if a leaf is sharded.
    """
    torch.serialization.add_safe_globals([state_class])
    state_class.__reduce_ex__ = _reduce_whole  # type: ignore[assignment]
    return state_class


def without_states(tree: Any) -> Any:
    """Return ``tree`` with None in the place of every optimizer state in it.

    A state that holds parameters, in a field ``params``, leaves them in its place.
    """

    def is_state(value: Any) -> bool:
        return getattr(type(value), '__reduce_ex__', None) is _reduce_whole

    def params(value: Any) -> Any:
        return getattr(value, 'params', None) if is_state(value) else value

    return pytree.tree_map(params, tree, is_leaf=is_state)


def state_to_dict(state: TensorTree) -> dict[str, Any]:
    """Return the leaves of a state by name, for ``torch.distributed.checkpoint``.

    Args:
        state: Any tree, such as a functional state or ``MetaOptimizer.state_dict()``.

    Returns:
        A flat dictionary, such as ``{'0.mu.w': ..., '0.nu.w': ..., '0.steps': ...}``, with the
        leaves themselves. Loading into it writes into their memory. A None is left out.

    Raises:
        ValueError: two leaves have the same name, as in ``{'a.b': x, 'a': {'b': y}}``.
    """
    named: dict[str, Any] = {}
    for name, leaf in zip(*_names_and_leaves(state)):
        if name in named:
            raise ValueError(f'two leaves of the state are called {name!r}: rename a parameter')
        if leaf is not None:
            named[name] = leaf
    return named


def state_from_dict(like: TensorTree, named: dict[str, Any]) -> Any:
    """Return the state whose leaves by name are ``named``: the inverse of :func:`state_to_dict`.

    Args:
        like: A state of the same structure, such as ``init`` makes.
        named: Dictionary of its leaves.

    Raises:
        ValueError: a leaf is missing, left over, or does not fit the one of ``like``.
    """
    expected = {*state_to_dict(like)}
    for what, wrong in (('lacks', expected - {*named}), ('has a stray', {*named} - expected)):
        if wrong:
            raise ValueError(f'the dictionary of a state {what} {enumerate_few(sorted(wrong))}')
    names, leaves = _names_and_leaves(like)
    new = [None if leaf is None else named[name] for name, leaf in zip(names, leaves)]
    structure = pytree.tree_structure(like, none_is_leaf=True)
    return checked_like(like, pytree.tree_unflatten(structure, new), 'state')


def _names_and_leaves(state: TensorTree) -> tuple[list[str], list[Any]]:
    accessors, leaves, _ = pytree.tree_flatten_with_accessor(state, none_is_leaf=True)
    names = [
        '.'.join(str(getattr(entry, 'field', entry.entry)) for entry in accessor)
        for accessor in accessors
    ]
    return names, leaves


def _reduce_whole(state: tuple[Any, ...], protocol: Any) -> Any:
    # A DTensor, whose class takes long to import, has a mesh.
    leaves: list[Any] = pytree.tree_leaves(cast(Any, state), none_is_leaf=True)
    sharded = any(hasattr(leaf, 'device_mesh') for leaf in leaves)
    if sharded and _called_by('torch.distributed.checkpoint'):
        raise TypeError(
            f"torch.distributed.checkpoint would save one rank's shards of {type(state).__name__}, "
            'since it takes no tuples apart: hand it '
            'torchopt.authoring.state.state_to_dict(state), and load with state_from_dict'
        )
    return tuple.__reduce_ex__(state, protocol)


def _called_by(package: str) -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if f'{frame.f_globals.get("__name__")}.'.startswith(f'{package}.'):
            return True
        frame = frame.f_back
    return False


def checked_like(expected: TensorTree, given: TensorTree, name: str) -> Any:
    """Return ``given`` if it has the structure, shapes and dtypes of ``expected``.

    Raises:
        ValueError: ``given`` differs; the message names the leaf.
    """
    leaves, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    given_leaves, given_structure = pytree.tree_flatten(given, none_is_leaf=True)
    if structure != given_structure:
        names, given_names = ({*_names_and_leaves(tree)[0]} for tree in (expected, given))
        missing, stray = sorted(names - given_names), sorted(given_names - names)
        if missing or stray:
            parts = [f'it lacks {enumerate_few(missing)}'] if missing else []
            parts += [f'it has {enumerate_few(stray)}, which nothing expects'] if stray else []
            raise ValueError(f'{name} differs in structure: {"; ".join(parts)}')
        raise ValueError(
            f'{name} differs in structure: expected {structure}, got {given_structure}'
        )
    for position, (leaf, other) in enumerate(zip(leaves, given_leaves)):
        if not alike(leaf, other):
            raise ValueError(
                f'{structure.accessors()[position].codify(name)} does not fit: '
                f'expected {describe(leaf)}, got {describe(other)}'
            )
    return given
