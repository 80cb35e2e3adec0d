"""Cotangents of the steps of a loop in one node, for whoever explains a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Observer: TypeAlias = Callable[[int, Sequence[torch.Tensor | None]], object]
"""``see(number, cotangents)``: a step's number from 0, and the cotangents of its parameters."""


@contextmanager
def cotangents_observed(node: Any, see: Observer) -> Iterator[bool]:
    """Let backward passes through a loop report the cotangents of the parameters of every step.

    Args:
        node: The node of a whole :func:`torchopt.unroll` in the graph of autograd.
        see: Called for every step, from the last to the first, with what the loss has as cotangents
            of the parameters that the step made: of the carry, as far as optimizer states, and the
            buffers of a :class:`~torchopt.unrolling.ModuleCarry`, can be told from them.

    Yields:
        Whether the loop reports anything. In forward mode it has no cotangents.
    """
    observed = getattr(getattr(node, 'record', None), 'observed', None)
    if observed is None:
        yield False
        return
    with observed(see):
        yield True
