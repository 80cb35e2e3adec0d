"""Leaves of the graph of torch.autograd, as they are seen from outside of inner gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from torchopt.authoring.constant_leaves import is_constant


def leaves_of_graph(
    roots: Iterable[Any], stops: Mapping[Any, torch.Tensor] | None = None
) -> Iterator[torch.Tensor]:
    """Yield the leaves behind ``roots``; at a node in ``stops``, yield its tensor instead.

    Leaves of an inner gradient that has been taken are constants, and left out.
    """
    stops = stops or {}
    seen: set[Any] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.Tensor):
            yield node
        elif node in stops:
            yield stops[node]
        elif parents := node.next_functions:
            # A rematerialized block says which of its inputs it does not use.
            unused = getattr(node, 'unused_inputs', ())
            waiting.extend(
                [parent for position, (parent, _) in enumerate(parents) if position not in unused]
            )
        elif hasattr(node, 'variable') and not is_constant(node.variable):
            yield node.variable
