"""The graph behind a loss: its nodes in order, its inner steps, and what leads where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torchopt.authoring.step_marks import LoopMark, Step, cut_of, loop_of, step_of
from torchopt_utils.autograd_graph import edges_of, inputs_first, is_accumulator


@dataclass
class MarkedStep:
    """The nodes of one inner step: one for every parameter that it has made.

    Attributes:
        step: The step.
        nodes: Its nodes.
        level: Number of the step on the longest path from the leaves, from 1.
    """

    step: Step
    nodes: list[Any] = field(default_factory=list)
    level: int = 0


@dataclass
class MarkedLoop:
    """A node that is a whole loop.

    Attributes:
        mark: What it says.
        node: The node.
        base: Number of steps before it on the longest path from the leaves.
    """

    mark: LoopMark
    node: Any
    base: int


@dataclass
class Graph:
    """What is behind a loss.

    It keeps the nodes alive, and with them their identity in Python.

    Attributes:
        nodes: All nodes; a node comes after everything that it was computed from.
        depth: For every node, the number of inner steps from the leaves to it, itself included.
        leads_to: For every node, which of the tensors asked for it leads to, one bit each.
        steps: Marked steps by number.
        loops: Loops in one node.
        leaves: Leaves of the graph that require grad.
        cut: Number of steps that ``Truncated`` has left out.
    """

    nodes: list[Any]
    depth: dict[Any, int]
    leads_to: dict[Any, int]
    steps: dict[int, MarkedStep]
    loops: list[MarkedLoop]
    leaves: list[torch.Tensor]
    cut: int

    @property
    def operations(self) -> int:
        """Number of nodes that are not leaves."""
        return len(self.nodes) - len(self.leaves)


def graph_of(loss: torch.Tensor, wanted: Sequence[torch.Tensor]) -> Graph:
    """Walk through the graph behind ``loss``.

    Args:
        loss: A tensor with a graph, or a leaf.
        wanted: Tensors whose bits ``leads_to`` has, in this order.
    """
    root = edge_of(loss)[0]
    bits: dict[tuple[Any, int], int] = {}
    for position, tensor in enumerate(wanted):
        if tensor.requires_grad:
            edge = edge_of(tensor)
            bits[edge] = bits.get(edge, 0) | 1 << position
    roots = [] if root is None else [root]
    walked = inputs_first(roots, lambda node: [source for source, _ in edges_of(node)])
    nodes = [node for node, _ in walked]
    graph = Graph(nodes, {}, {}, {}, [], [], 0)
    for node in nodes:
        before = inputs_of(node)
        graph.depth[node] = max((graph.depth[source] for source, _ in before), default=0)
        leads_to = bits.get((node, 0), 0) if not before else 0
        for edge in before:
            leads_to |= graph.leads_to[edge[0]] | bits.get(edge, 0)
        graph.leads_to[node] = leads_to
        _note_marks(graph, node)
        if not before and is_accumulator(node):
            graph.leaves.append(node.variable)
    if root is not None:
        graph.leads_to[root] |= bits.get(edge_of(loss), 0)
    return graph


def edge_of(tensor: torch.Tensor) -> tuple[Any, int]:
    """Return the node of ``tensor`` and the number of its output; for a leaf, its accumulator."""
    if not tensor.requires_grad:
        return None, 0
    with torch.enable_grad():  # in torch 2.4, the edge of a leaf is read from a view of it
        edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def inputs_of(node: Any) -> list[tuple[Any, int]]:
    """Return where the gradients of ``node`` go."""
    return [edge for edge in edges_of(node) if edge[0] is not None]


def _note_marks(graph: Graph, node: Any) -> None:
    mark, loop = step_of(node), loop_of(node)
    if mark is not None:
        entry = graph.steps.setdefault(mark.step.number, MarkedStep(mark.step))
        entry.nodes.append(node)
        graph.depth[node] += 1
        entry.level = max(entry.level, graph.depth[node])
    elif loop is not None:
        graph.loops.append(MarkedLoop(loop, node, graph.depth[node]))
        graph.depth[node] += loop.length
    graph.cut = max(graph.cut, cut_of(node))
