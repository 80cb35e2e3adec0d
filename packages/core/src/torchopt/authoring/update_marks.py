"""Marks of gradients and states in the graph of autograd, beside the marks of inner steps.

They say where a step begins to compute with its gradients, and which tensors go on to the next
step. A mark holds numbers and strings alone, so that it keeps nothing alive.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt.authoring.step_marks import leaves_of, recording
from torchopt.authoring.torch_internals import sequence_number

_GRADIENT, _STATE = 'torchopt.gradient', 'torchopt.state'


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
    for leaf in leaves_of(gradients):
        node: Any = leaf.grad_fn if isinstance(leaf, torch.Tensor) else None
        if node is not None:
            if _GRADIENT in node.metadata:
                return  # the step that computed them has marked them all
            node.metadata[_GRADIENT] = end


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
            for leaf in leaves_of(tree):
                node: Any = leaf.grad_fn if isinstance(leaf, torch.Tensor) else None
                if node is not None:
                    fields = node.metadata.get(_STATE, ())
                    node.metadata[_STATE] = (*fields, field) if field not in fields else fields


def gradient_of(node: Any) -> GradientMark | None:
    """Return the mark of a gradient at a node of the graph (a ``grad_fn``), if it has one."""
    metadata: dict[str, Any] = node.metadata
    return GradientMark(metadata[_GRADIENT]) if _GRADIENT in metadata else None


def state_fields_of(node: Any) -> tuple[str, ...]:
    """Return the fields of an optimizer's state, such as ``('mu',)``, that a node made.

    A fused update is one node, and makes all fields.
    """
    fields: tuple[str, ...] = node.metadata.get(_STATE, ())
    return fields
