"""Cotangents of the steps of a loop in one node, for whoever explains a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.state import without_states
from torchopt.unrolling.leaves import is_placeholder
from torchopt.unrolling.module_step import ModuleCarry
from torchopt.unrolling.strategies.record import Record
from torchopt.unrolling.vjp import Cotangents


@contextmanager
def cotangents_observed(
    node: Any, see: Callable[[int, list[torch.Tensor | None]], object]
) -> Iterator[bool]:
    """Let backward passes through a loop report the cotangents of the parameters of every step.

    Args:
        node: The node of the loop in the graph of autograd.
        see: ``see(number, cotangents)`` is called for every step, from the last to the first, with
            the number of the step from 0, and the cotangents of what the step has made of its
            carry: of the parameters alone, as far as optimizer states and the buffers of a
            :class:`~torchopt.unrolling.ModuleCarry` can be told from them.

    Yields:
        Whether the loop reports anything. In forward mode it has no cotangents.
    """
    record = getattr(node, 'record', None)
    if not isinstance(record, Record):
        yield False
        return
    params = _params_of(record)

    def observe(number: int, cotangents: Cotangents) -> None:
        see(number, [cotangents[position] for position in params])

    before, record.observer = record.observer, observe
    try:
        yield True
    finally:
        record.observer = before


def _params_of(record: Record) -> list[int]:
    """Return the positions of the parameters among the tensors of the carry."""
    loop = record.template
    positions = iter(range(len(loop.carry)))
    numbers = [next(positions) if is_placeholder(leaf) else None for leaf in loop.carry]
    carry = without_states(pytree.tree_unflatten(loop.carry_structure, numbers))

    def params(value: Any) -> Any:
        return value.params if isinstance(value, ModuleCarry) else value

    found = pytree.tree_map(params, carry, is_leaf=lambda v: isinstance(v, ModuleCarry))
    return pytree.tree_leaves(found)
