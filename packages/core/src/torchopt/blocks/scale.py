"""Multiplication of updates by a factor, such as the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.numerics import multiplication
from torchopt.authoring.origin import recorded
from torchopt.authoring.per_tensor import map_updates, pointwise
from torchopt.authoring.rates import require_one_tensor, with_tensors
from torchopt.authoring.transformation import stateless
from torchopt.base import GradientTransformation, identity
from torchopt.blocks.scale_by_schedule import scale_by_schedule
from torchopt.typing import LearningRate, Params, Scalar, TensorTree, Updates


def _same(factor: torch.Tensor) -> torch.Tensor:
    return factor


@recorded
def scale(factor: Scalar | TensorTree) -> GradientTransformation:
    """Multiply updates by ``factor``.

    Args:
        factor: A number, a 0-dim tensor, or a tree with the structure of the updates. Its leaves
            are numbers, or tensors that broadcast to their update. Tensors may require grad.
    """
    return _multiply(factor, 'factor')


def _multiply(
    factor: Scalar | TensorTree, name: str, sign: Callable[[torch.Tensor], torch.Tensor] = _same
) -> GradientTransformation:
    if isinstance(factor, (int, float)):
        return pointwise(multiplication(factor))
    if isinstance(factor, torch.Tensor) and factor.dim() == 0:

        def update(updates: Updates, params: Params | None) -> Updates:
            signed = sign(factor)
            return map_updates(lambda g: g * signed, updates)

        return stateless(update)

    def update_by_tree(updates: Updates, params: Params | None) -> Updates:
        if isinstance(factor, torch.Tensor):
            require_one_tensor(pytree.tree_structure(updates, none_is_leaf=True), factor, name)
        return map_updates(
            lambda g, f: g * sign(f), updates, {name: with_tensors(factor)}, broadcast=True
        )

    return stateless(update_by_tree)


def flip_sign(maximize: bool) -> GradientTransformation:
    """Negate gradients if ``maximize``; otherwise return the identity."""
    return scale(-1.0) if maximize else identity()


@recorded
def scale_by_learning_rate(lr: LearningRate) -> GradientTransformation:
    """Multiply updates by ``-lr``, so that adding them descends.

    Args:
        lr: A number or 0-dim tensor >= 0; a tree with the structure of the parameters, whose
            leaves are numbers or tensors: one learning rate per tensor, or one per entry
            (Meta-SGD); or a schedule, which returns one of these.

    Raises:
        TypeError: ``lr`` is none of these.
        ValueError: ``lr`` is a negative number.
    """
    checks.learning_rate('lr', lr)
    if isinstance(lr, (int, float)):
        return _multiply(-lr, 'lr')
    if checks.is_function(lr):
        return scale_by_schedule(lambda count: _negated(lr(count)))
    # Negate at each update, not once: a learned rate is changed in place.
    return _multiply(lr, 'lr', torch.neg)


def _negated(rate: Any) -> Any:
    return pytree.tree_map(torch.neg, with_tensors(rate)) if checks.is_tree(rate) else -rate
