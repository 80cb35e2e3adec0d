"""Checks of hyperparameters and of trees of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.typing import LearningRate, Params, Scalar, TensorTree


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Tell whether ``value``, a schedule or mask, is a function rather than a tree.

    ``torch.compile`` cannot trace the builtin ``callable`` on a dictionary.
    """
    return isinstance(value, Callable)  # type: ignore[arg-type]


def number(name: str, value: Any) -> bool:
    """Raise unless ``value`` is a scalar; return whether its range can be checked.

    The range of a tensor is not checked: reading the value would wait for the device, and would
    fail under ``torch.vmap`` and ``torch.compile``.
    """
    if isinstance(value, torch.Tensor):
        if value.dim() != 0 or not value.is_floating_point():
            raise TypeError(
                f'{name} must be a number or a 0-dim floating-point tensor, '
                f'got a tensor of shape {tuple(value.shape)} and dtype {value.dtype}'
            )
        return False
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{name} must be a number or a 0-dim floating-point tensor, got {value!r}')
    return True


def nonnegative(name: str, value: Any) -> None:
    """Raise unless 0 <= ``value``."""
    if number(name, value) and not value >= 0:
        raise ValueError(f'{name} must be at least 0, got {value!r}')


def positive(name: str, value: Scalar) -> None:
    """Raise unless 0 < ``value``."""
    if number(name, value) and not value > 0:
        raise ValueError(f'{name} must be greater than 0, got {value!r}')


def nonpositive(name: str, value: Any) -> None:
    """Raise unless ``value`` <= 0."""
    if number(name, value) and not value <= 0:
        raise ValueError(f'{name} must be at most 0, got {value!r}')


def count(name: str, value: Any) -> None:
    """Raise unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer of at least 1, got {value!r}')


def between(name: str, value: Any, low: float, high: float) -> None:
    """Raise unless ``low`` < ``value`` < ``high``."""
    if number(name, value) and not low < value < high:
        raise ValueError(
            f'{name} must be greater than {low:g} and less than {high:g}, got {value!r}'
        )


def decay_rate(name: str, value: Scalar) -> None:
    """Raise unless 0 <= ``value`` < 1."""
    if number(name, value) and not 0 <= value < 1:
        raise ValueError(f'{name} must be at least 0 and less than 1, got {value!r}')


def fraction(name: str, value: Scalar) -> None:
    """Raise unless 0 <= ``value`` <= 1."""
    if number(name, value) and not 0 <= value <= 1:
        raise ValueError(f'{name} must be at least 0 and at most 1, got {value!r}')


def several(name: str, values: Any, count: int = 2) -> tuple[Any, ...]:
    """Return ``values`` as a tuple, or raise unless there are ``count`` of them."""
    try:
        found = tuple(values)
    except TypeError:
        found = ()
    if len(found) != count:
        wanted = 'a pair of numbers' if count == 2 else f'{count} numbers'
        raise TypeError(f'{name} must be {wanted}, got {values!r}')
    return found


def decay_rates(name: str, values: Sequence[Scalar], count: int = 2) -> tuple[Scalar, ...]:
    """Return the decay rates as a tuple, or raise unless there are ``count`` of them."""
    rates = several(name, values, count)
    for position, rate in enumerate(rates):
        decay_rate(f'{name}[{position}]', rate)
    return rates


def learning_rate(name: str, value: LearningRate) -> None:
    """Raise unless ``value`` is a scalar >= 0, a schedule, or a tree of rates.

    The leaves of a tree are numbers >= 0, or floating-point tensors of any shape.
    """
    if is_function(value):
        return
    if isinstance(value, (int, float)) or value is None or isinstance(value, str):
        nonnegative(name, value)
        return
    tree: Any = value
    leaves, structure = pytree.tree_flatten(tree, none_is_leaf=True)
    for position, leaf in enumerate(leaves):
        is_number = isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
        if leaf is None or _is_floating(leaf) or (is_number and leaf >= 0):
            continue
        where = structure.accessors()[position].codify(name)
        if is_number:
            nonnegative(where, leaf)
        raise TypeError(
            f'{where} must be a number or a floating-point tensor, got {describe(leaf)}'
        )


def is_tree(rate: Scalar | TensorTree) -> bool:
    """Tell whether ``rate`` is a tree of rates rather than one rate for all parameters."""
    if isinstance(rate, (int, float, torch.Tensor)):
        return False
    _, structure = pytree.tree_flatten(rate, none_is_leaf=True)
    return not structure.is_leaf()


def representable(name: str, value: Scalar, tree: Params) -> None:
    """Raise if ``value``, which keeps a denominator from 0, underflows in a parameter's dtype.

    The arithmetic for 16-bit parameters is in float32.
    """
    if isinstance(value, torch.Tensor) or value == 0:
        return
    for leaf in pytree.tree_leaves(tree):
        dtype = torch.float64 if leaf.dtype == torch.float64 else torch.float32
        if value < torch.finfo(dtype).tiny:
            raise ValueError(
                f'{name}={value!r} is 0 in {dtype}, the dtype of the arithmetic for a parameter: '
                f'use {torch.finfo(dtype).tiny:.2g} or more, or 0'
            )


def params(tree: Params) -> tuple[list[torch.Tensor | None], pytree.PyTreeSpec]:
    """Return leaves and structure; raise unless every leaf is a floating-point tensor or None."""
    leaves, structure = pytree.tree_flatten(tree, none_is_leaf=True)
    for position, leaf in enumerate(leaves):
        if leaf is not None and not _is_floating(leaf):
            name = structure.accessors()[position].codify('params')
            raise wrong_leaf(name, leaf)
    return leaves, structure


def rule_results(results: Any, arguments: Sequence[torch.Tensor]) -> None:
    """Raise unless a rule returned a tensor for each of its ``arguments``: update and new state.

    A tensor alone would be taken apart along its first dimension.

    Args:
        results: What the rule returned.
        arguments: The gradient and the tensors of the state.
    """
    if not isinstance(results, (tuple, list)) or len(results) != len(arguments):
        several = isinstance(results, (tuple, list))
        raise TypeError(
            'a rule must return a tuple of the update and the new state tensors, '
            f'{len(arguments)} in all, got {len(results) if several else describe(results)}'
        )
    for result, argument in zip(results, arguments):
        if not isinstance(result, torch.Tensor) or result.shape != argument.shape:
            raise ValueError(
                'a rule must return an update of the shape of the gradient, and state tensors of '
                f'the shapes that it got: here {tuple(argument.shape)}, got {describe(result)}'
            )


def wrong_leaf(name: str, leaf: Any) -> TypeError:
    """Return the error for a leaf that is neither a floating-point tensor nor None."""
    return TypeError(f'{name} must be a floating-point tensor or None, got {describe(leaf)}')


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
