"""A parameter group of a meta-optimizer: where its parameters are, and the state that they have."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.arguments import Recipe
from torchopt.authoring.describe import alike
from torchopt.authoring.from_torch import state_from_torch
from torchopt.authoring.inplace import functional
from torchopt.authoring.module_slots import ParameterSlot, read_params
from torchopt.authoring.origin import shown
from torchopt.authoring.state import checked_like
from torchopt.base import GradientTransformation
from torchopt.typing import OptState

Slots = dict[str, list[ParameterSlot]]


class Group:
    """Parameters with one transformation.

    Args:
        source: The transformation, or the recipe to make it from.
        slots: Every slot of each parameter by the parameter's name. A tied tensor has several.

    Attributes:
        source: As given.
        slots: As given.
        transformation: What ``source`` makes.
        update: ``update(updates, state, params)`` of the transformation, never in place.
        state: The state of the transformation. Steps replace it and write into none of its tensors.
    """

    def __init__(self, source: GradientTransformation | Recipe, slots: Slots) -> None:
        self.source = source
        self.slots = slots
        self.transformation = _made(source)
        self.update = functional(self.transformation.update)
        params = read_params(slots)
        self.state: OptState = self.transformation.init(params)
        self._kinds = _kinds_of(params)
        self._is_at_first_values = True

    def read(self) -> dict[str, torch.Tensor]:
        """Return the parameters; the state takes over their dtypes and devices.

        A state at its first values is made again, so that it is as exact as if the module had been
        moved first. A later one is converted, through its graph if it has one.

        Raises:
            RuntimeError: a parameter has been removed from its module, or is tied no longer.
        """
        params = read_params(self.slots)
        kinds = _kinds_of(params)
        if kinds != self._kinds:
            first = self.transformation.init(params)
            # Somebody may differentiate by a first value that requires grad.
            learned = any(getattr(leaf, 'requires_grad', False) for leaf in _leaves(self.state))
            remade = self._is_at_first_values and not learned
            self.state = first if remade else moved_like(first, self.state)
            self._kinds = kinds
        return params

    def take_over(self, state: OptState) -> None:
        """Replace the state, by a step or by loading."""
        self.state = state
        self._is_at_first_values = False

    def hyperparameters(self) -> Mapping[str, Any]:
        """Return what :meth:`MetaOptimizer.__repr__` shows, by name."""
        source = self.source
        return source.values() if isinstance(source, Recipe) else {'impl': source}

    def __copy__(self) -> Group:
        """Return a group of the same parameters, with slots and a state of its own."""
        clone = object.__new__(type(self))
        clone.__dict__.update(vars(self))
        clone.slots = {name: list(slots) for name, slots in self.slots.items()}
        return clone

    def __getstate__(self) -> dict[str, Any]:
        # A recipe can be pickled, and a transformation made from its copy sees the copies of
        # hyperparameters that are tensors.
        kept = dict(vars(self))
        del kept['update']
        if isinstance(self.source, Recipe):
            del kept['transformation']
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self.__dict__.setdefault('transformation', _made(self.source))
        self.update = functional(self.transformation.update)

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        """Return a copy with copies of the modules; see :meth:`MetaOptimizer.__deepcopy__`."""
        tensors = [*read_params(self.slots).values(), *_leaves(self.state)]
        if any(getattr(tensor, 'grad_fn', None) is not None for tensor in tensors):
            raise RuntimeError(
                'a meta-optimizer can be deep-copied only while its parameters and its state have '
                'no graph: call torchopt.stop_gradient on the module and on the optimizer first, '
                'or copy the optimizer with torchopt.module_clone'
            )
        clone = object.__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return clone

    def describe(self) -> Sequence[str]:
        """Return a line for each hyperparameter, and one for the parameters."""
        return [
            *(f'{name}: {_shown(value)}' for name, value in self.hyperparameters().items()),
            f'parameters: {len(self.slots)}',
        ]


def trained_groups(
    whole: Group, recipe: Recipe, optimizer: torch.optim.Optimizer, overrides: Mapping[str, Any]
) -> list[Group]:
    """Divide a group as a trained optimizer does, with its hyperparameters and states.

    Args:
        whole: Its parameters that ``optimizer`` does not hold are in none of the groups returned.
        recipe: Makes the rule of ``optimizer``.
        optimizer: A ``torch.optim`` or plain optimizer.
        overrides: Hyperparameters that take precedence in all groups.
    """
    params = whole.read()
    groups = []
    for given in optimizer.param_groups:
        members = {id(param) for param in given['params']}
        slots = {name: whole.slots[name] for name, p in params.items() if id(p) in members}
        if slots:
            values = {name: given[name] for name in recipe.names if name in given}
            group = Group(recipe.replace({**values, **overrides}), slots)
            group.take_over(state_from_torch(group.transformation, group.read(), optimizer))
            groups.append(group)
    return groups


def moved_like(expected: OptState, state: OptState) -> Any:
    """Return ``state`` with the dtypes and devices of ``expected``, where the structures agree."""
    like, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    leaves, given = pytree.tree_flatten(state, none_is_leaf=True)
    if structure != given:
        return state
    return pytree.tree_unflatten(given, map(_moved, like, leaves))


def fitted(expected: OptState, state: OptState) -> Any:
    """Return ``state``, in new containers, with the dtypes and devices of ``expected``.

    Raises:
        ValueError: the two differ in structure, or a tensor in shape; the message says where.
    """
    like, structure = pytree.tree_flatten(expected, none_is_leaf=True)
    leaves, given = pytree.tree_flatten(state, none_is_leaf=True)
    if structure == given:
        leaves = list(map(_moved, like, leaves))
        state = pytree.tree_unflatten(given, leaves)
        if all(map(alike, like, leaves)):
            return state
    return checked_like(expected, state, 'state')


def _moved(like: Any, leaf: Any) -> Any:
    if not isinstance(like, torch.Tensor) or not isinstance(leaf, torch.Tensor):
        return leaf
    if like.dtype == leaf.dtype and like.device == leaf.device:
        return leaf
    if like.is_floating_point() != leaf.is_floating_point():
        return leaf
    with torch.enable_grad():
        return leaf.to(like.device, like.dtype)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, GradientTransformation) else shown(value)


def _made(source: GradientTransformation | Recipe) -> GradientTransformation:
    return source.make() if isinstance(source, Recipe) else source


def _kinds_of(params: Mapping[str, torch.Tensor]) -> list[tuple[torch.dtype, torch.device]]:
    return [(param.dtype, param.device) for param in params.values()]


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree)
