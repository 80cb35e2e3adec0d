"""Marks of gradients, updates and states in the graph of autograd, beside the marks of steps.

They say where a step begins to compute with its gradients, or that these are constants, and which
tensors go on to the next step. A mark holds numbers and strings alone, so that it keeps nothing
alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch

from torchopt import pytree
from torchopt.authoring.step_marks import recording
from torchopt.authoring.torch_internals import sequence_number

_GRADIENT, _STATE, _CONSTANT = 'torchopt.gradient', 'torchopt.state', 'torchopt.constant'
_LEAF = (torch.Tensor, type(None))


class GradientMark(NamedTuple):
    """What the node of a gradient says of its loss.

    Attributes:
        loss: Sequence number of the loss's node: what was recorded later is the backward pass. None
            if it is not known.
    """

    loss: int | None


def mark_gradients(gradients: Any, loss: torch.Tensor | None = None) -> None:
    """Mark the nodes that made ``gradients``, where a step begins to compute with them.

    Args:
        gradients: Tree of gradients, with None where a parameter has none.
        loss: What they are the gradients of, if it is at hand.
    """
    if not recording():
        return
    end = None if loss is None or loss.grad_fn is None else sequence_number(loss.grad_fn)
    for leaf in _leaves_of(gradients):
        node: Any = leaf.grad_fn if isinstance(leaf, torch.Tensor) else None
        if node is not None:
            if _GRADIENT in node.metadata:
                return  # the step that computed them has marked them all
            node.metadata[_GRADIENT] = end


def mark_update(gradients: Any, updates: Any) -> None:
    """Mark the nodes of ``gradients``, or, where none has a graph, the nodes of ``updates``."""
    if not recording():
        return
    for gradient in _leaves_of(gradients):
        if isinstance(gradient, torch.Tensor) and gradient.requires_grad:
            mark_gradients(gradients)
            return
    for update in _leaves_of(updates):
        node: Any = update.grad_fn if isinstance(update, torch.Tensor) else None
        if node is not None:
            node.metadata[_CONSTANT] = True


def mark_state(state: Any) -> None:
    """Mark the nodes that made the tensors of an optimizer's state with the fields they are in.

    Optimizers that hold their state do this. The functional ``update`` does not: it would make a
    small step a tenth slower, for nothing but labels in a drawing.
    """
    if not recording():
        return
    pending: list[Any] = [state]
    while pending:
        found = pending.pop()
        if not isinstance(found, tuple):
            continue
        fields_of_state = getattr(found, '_fields', None)
        if fields_of_state is None:
            pending.extend(found)
            continue
        for field, tree in zip(fields_of_state, found):
            for leaf in _leaves_of(tree):
                node: Any = leaf.grad_fn if isinstance(leaf, torch.Tensor) else None
                if node is not None:
                    fields = node.metadata.get(_STATE, ())
                    node.metadata[_STATE] = (*fields, field) if field not in fields else fields


def gradient_of(node: Any) -> GradientMark | None:
    """Return the mark of a gradient at a node of the graph (a ``grad_fn``), if it has one."""
    metadata: dict[str, Any] = node.metadata
    return GradientMark(metadata[_GRADIENT]) if _GRADIENT in metadata else None


def has_constant_gradient(node: Any) -> bool:
    """Tell whether the node of an update says that the gradient was a constant."""
    return _CONSTANT in node.metadata


def state_fields_of(node: Any) -> tuple[str, ...]:
    """Return the fields of an optimizer's state, such as ``('mu',)``, that a node made.

    A fused update is one node, and makes all fields.
    """
    fields: tuple[str, ...] = node.metadata.get(_STATE, ())
    return fields


def _leaves_of(tree: Any) -> Iterable[Any]:
    """Return the leaves of a tree in any order; of the most common trees without a search."""
    kind: Any = type(tree)
    flat: Any = tree.values() if kind is dict else tree
    if kind in (dict, list, tuple) and all([isinstance(leaf, _LEAF) for leaf in flat]):
        return cast(Iterable[Any], flat)
    whole: Any = tree
    return pytree.tree_leaves(whole)
