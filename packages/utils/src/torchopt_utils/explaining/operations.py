"""Which operation turns a cotangent into NaN, infinity or zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from torchopt_utils.explaining.generators import preserved
from torchopt_utils.explaining.graph import Graph, edge_of, inputs_of
from torchopt_utils.explaining.numbers import is_finite, is_zero


class Operation(NamedTuple):
    """An operation in the graph.

    Attributes:
        name: Its name, such as ``'SqrtBackward0'``.
        steps_before: Number of inner steps before it.
        in_loop: Whether it is a whole loop.
        line: The line that called it, if anomaly detection has noted it; else empty.
    """

    name: str
    steps_before: int
    in_loop: bool
    line: str

    def place(self, steps: int) -> str:
        """Say where it is, of ``steps`` steps in all."""
        if self.in_loop:
            where = 'a loop that is one node, so that the operation in it is not seen'
        elif self.steps_before >= steps:
            where = 'after the last inner step' if steps else 'in the loss'
        else:
            where = f'in inner step {self.steps_before + 1}'
        return f'{self.name} ({where}{", called by " + self.line if self.line else ""})'


def first_not_finite(
    loss: torch.Tensor, wanted: Sequence[torch.Tensor], graph: Graph
) -> Operation | None:
    """Return the first operation, from the loss, that makes NaN or infinity of finite numbers."""

    def breaks(node: Any, grads: Iterable[Any], cotangents: Iterable[Any]) -> bool:
        return is_finite(cotangents) and not is_finite(grads)

    found = _search(loss, wanted, graph, breaks, most=1)
    return found[0] if found else None


def dead_ends(
    loss: torch.Tensor, wanted: torch.Tensor, bit: int, graph: Graph, most: int = 3
) -> list[Operation]:
    """Return operations that pass 0 towards ``wanted``, although what reaches them is not 0.

    Args:
        loss: A scalar with a graph.
        wanted: A tensor whose gradient is 0.
        bit: Its bit in ``graph.leads_to``.
        graph: The graph of ``loss``.
        most: How many operations to return.
    """

    def ends(node: Any, grads: Sequence[Any], cotangents: Iterable[Any]) -> bool:
        edges = node.next_functions
        towards = [
            gradient
            for gradient, edge in zip(grads, edges)
            if edge in leading and edge[0] is not None
        ]
        return bool(towards) and not is_zero(cotangents) and is_zero(towards)

    leading = {
        edge for node in graph.nodes for edge in inputs_of(node) if graph.leads_to[edge[0]] & bit
    }
    leading.add(edge_of(wanted))
    return _search(loss, [wanted], graph, ends, most)


def _search(
    loss: torch.Tensor,
    wanted: Sequence[torch.Tensor],
    graph: Graph,
    is_wanted: Callable[[Any, Any, Any], bool],
    most: int,
) -> list[Operation]:
    found: list[Operation] = []
    loops = {loop.node for loop in graph.loops}
    with ExitStack() as stack:
        stack.enter_context(preserved([loss, *wanted, *graph.leaves]))
        for node in graph.nodes:
            if not node.next_functions:
                continue

            def hook(grads: Any, cotangents: Any, node: Any = node) -> None:
                if len(found) < most and is_wanted(node, grads, cotangents):
                    depth, in_loop = graph.depth[node], node in loops
                    found.append(Operation(node.name(), depth, in_loop, _line_of(node)))

            stack.callback(node.register_hook(hook).remove)
        torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    return list(dict.fromkeys(found))


def _line_of(node: Any) -> str:
    """Return the line of the program that anomaly detection has noted at a node."""
    lines = node.metadata.get('traceback_') or []
    own = [line for line in lines if '/torch/' not in line and '/torchopt' not in line]
    return own[-1].strip().splitlines()[-1].strip() if own else ''
