"""The graph of autograd, walked for :func:`explain` and :func:`make_dot`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def edges_of(node: Any) -> list[tuple[Any, int]]:
    """Return the nodes, and the numbers of their outputs, that the gradients of ``node`` go to.

    The node is None for an input without a graph, and for one that the operation does not use.
    """
    # A rematerialized block says which of its inputs it does not use.
    unused = getattr(node, 'unused_inputs', ())
    return [
        (None, 0) if position in unused else edge
        for position, edge in enumerate(node.next_functions)
    ]


def is_accumulator(node: Any) -> bool:
    """Tell whether ``node`` accumulates the gradient of a leaf."""
    found: bool = node.name() == 'torch::autograd::AccumulateGrad'
    return found


def inputs_first(
    roots: Iterable[Any], inputs_of: Callable[[Any], Sequence[Any]]
) -> list[tuple[Any, Sequence[Any]]]:
    """Return what is behind ``roots`` with its inputs, everything after its inputs.

    The walk has no recursion, and time and memory are linear in the number of nodes and edges.

    Args:
        roots: Where to begin, nodes or whatever ``inputs_of`` takes.
        inputs_of: Returns the inputs of an object; None stands for no object.
    """
    # The inputs keep the objects alive that stand for nodes in Python, so that ``id`` tells them
    # apart.
    behind: dict[int, Sequence[Any]] = {}
    order: list[tuple[Any, Sequence[Any]]] = []
    for root in roots:
        if id(root) in behind:
            continue
        behind[id(root)] = inputs_of(root)
        path = [(root, iter(behind[id(root)]))]
        while path:
            current, rest = path[-1]
            for before in rest:
                if before is not None and id(before) not in behind:
                    behind[id(before)] = inputs_of(before)
                    path.append((before, iter(behind[id(before)])))
                    break
            else:
                path.pop()
                order.append((current, behind[id(current)]))
    return order
