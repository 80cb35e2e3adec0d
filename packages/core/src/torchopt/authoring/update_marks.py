"""Marks of gradients, updates and states in the graph of autograd, beside the marks of steps.

They say where a step begins to compute with its gradients, or that these are constants, and which
tensors go on to the next step. A mark holds numbers and strings alone, so that it keeps nothing
alive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.common_trees import values_of
from torchopt.authoring.step_marks import nodes_of, recording
from torchopt.authoring.torch_internals import sequence_number

_GRADIENT, _STATE, _CONSTANT = 'torchopt.gradient', 'torchopt.state', 'torchopt.constant'


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
    if recording():
        end: Any = None if loss is None else loss.grad_fn
        _mark_each(nodes_of(gradients), None if end is None else sequence_number(end))


def mark_update(gradients: Any, updates: Any) -> None:
    """Mark the nodes of ``gradients``, or, where none has a graph, the nodes of ``updates``."""
    if not recording():
        return
    recorded = _recorded(gradients)
    for leaf in recorded:
        node: Any = leaf.grad_fn
        if node is not None:
            # Otherwise the step that computed the gradients has marked them all.
            if _GRADIENT not in node.metadata:
                _mark_each(nodes_of(gradients), None)
            return
    if not recorded:
        for node in nodes_of(updates):
            if node is not None:
                node.metadata[_CONSTANT] = True


def _recorded(tree: Any) -> list[torch.Tensor]:
    """Return the leaves that require grad."""
    flat = values_of(tree)
    if flat is not None:
        try:
            return [leaf for leaf in flat if leaf.requires_grad]
        except AttributeError:
            pass  # a leaf is None, or a tree
    whole: Any = tree
    leaves = pytree.tree_leaves(whole)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def _mark_each(nodes: Iterable[Any], loss: int | None) -> None:
    for node in nodes:
        if node is not None:
            node.metadata[_GRADIENT] = loss


def mark_state(state: Any) -> None:
    """Mark the nodes that made the tensors of an optimizer's state with the fields they are in.

    Optimizers that hold their state do this. The functional ``update`` does not: it would double
    what marks cost, for nothing but labels in a drawing.
    """
    if not recording():
        return
    pending: list[Any] = [state]
    while pending:
        found = pending.pop()
        if not isinstance(found, tuple):
            continue
        names = getattr(found, '_fields', None)
        if names is None:
            pending.extend(found)
            continue
        for name, tree in zip(names, found):
            alone, last = (name,), None
            for node in nodes_of(tree):
                if node is None or node is last:
                    continue  # a fused update is one node
                last, metadata = node, node.metadata
                fields = metadata.setdefault(_STATE, alone)
                if fields is not alone and name not in fields:
                    metadata[_STATE] = (*fields, name)


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
