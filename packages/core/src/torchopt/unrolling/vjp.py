"""Vector-Jacobian products of lists of tensors, where None stands for zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from torchopt.unrolling.context.autocast import without_autocast

Cotangents: TypeAlias = Sequence[torch.Tensor | None]
"""One cotangent for every tensor of a list; None stands for zero."""


def vjp(
    outputs: Sequence[torch.Tensor],
    cotangents: Cotangents,
    inputs: Sequence[torch.Tensor],
    *,
    create_graph: bool = False,
) -> Cotangents:
    """Return the cotangents of ``inputs``, given those of ``outputs``, along the recorded graph.

    An input that does not require grad, or that no output depends on, gets None.
    """
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents)
        if cotangent is not None and output.requires_grad
    ]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    # Like backward() after an autocast block: the graph already holds the casts that it needs.
    with without_autocast(wanted):
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [cotangent for _, cotangent in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    supply = iter(found)
    return [next(supply) if tensor.requires_grad else None for tensor in inputs]
