"""Reverse-mode derivatives of some tensors by others, where None stands for zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from torchopt.unrolling.random_state import Autocast

Cotangents: TypeAlias = Sequence[torch.Tensor | None]
"""One for every tensor, or None for a derivative of zero."""


def partial_derivatives(
    outputs: Sequence[torch.Tensor],
    cotangents: Cotangents,
    inputs: Sequence[torch.Tensor],
    *,
    create_graph: bool = False,
) -> Cotangents:
    """Return the products of ``cotangents`` with the derivatives of ``outputs`` by ``inputs``.

    None stands for zero on both sides, and for inputs that do not require grad.
    """
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents)
        if cotangent is not None and output.requires_grad
    ]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    # As backward() is called after autocast: each operation has its cast in its graph already, and
    # one that was exempt has none.
    with Autocast.capture(wanted).off().replayed():
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [cotangent for _, cotangent in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    by_tensor = iter(found)
    return [next(by_tensor) if tensor.requires_grad else None for tensor in inputs]
