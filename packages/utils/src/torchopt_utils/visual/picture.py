"""What is drawn: boxes in clusters, and edges between boxes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    'parameter', 'meta', 'state', 'operation', 'update', 'fold', 'named', 'output', 'missing', 'cut'
]
"""What a box stands for; a theme gives each kind its looks."""


@dataclass
class Box:
    """A box of the picture.

    Attributes:
        lines: Lines of text.
        kind: What it stands for.
        clusters: Titles of the clusters that it is in, the outermost first.
    """

    lines: list[str]
    kind: Kind
    clusters: tuple[tuple[str, str], ...] = ()


@dataclass
class Edge:
    """An edge of the picture.

    Attributes:
        labels: What an optimizer takes over from the step before: ``'params'``, or fields of its
            state.
        is_state: Whether nothing but that flows along it.
        is_cut: Whether it stands for what is not in the graph.
    """

    labels: dict[str, None] = field(default_factory=dict)
    is_state: bool = True
    is_cut: bool = False


@dataclass
class Picture:
    """What is drawn, in order.

    Attributes:
        boxes: By key.
        edges: By the keys of the boxes that they join.
        has_rows: Whether parameters before the first step stand side by side.
    """

    boxes: dict[Any, Box] = field(default_factory=dict)
    edges: dict[tuple[Any, Any], Edge] = field(default_factory=dict)
    has_rows: bool = False

    def edge(self, start: Any, end: Any) -> Edge:
        """Return the edge between two boxes, which is drawn once."""
        return self.edges.setdefault((start, end), Edge())


def drop_implied(picture: Picture, ends: Collection[Any]) -> None:
    """Leave out edges to ``ends`` that say no more than a longer way through the end's cluster.

    Edges with labels stay. So do all edges of a cluster with a circle, such as the cluster of a
    recurrent network.
    """
    inside: dict[Any, list[tuple[Any, Any]]] = {}
    for start, end in picture.edges:
        cluster = picture.boxes[end].clusters
        if cluster:
            inside.setdefault(cluster, []).append((start, end))
    for cluster, edges in inside.items():
        own = [edge for edge in edges if picture.boxes[edge[0]].clusters == cluster]
        reach = _reachable(own)
        if reach is None:
            continue
        after: dict[Any, list[Any]] = {}
        for start, end in edges:
            after.setdefault(start, []).append(end)
        for start, end in edges:
            is_implied = any([end in reach.get(other, ()) for other in after[start]])
            if end in ends and is_implied and not picture.edges[start, end].labels:
                del picture.edges[start, end]


def _reachable(edges: Iterable[tuple[Any, Any]]) -> dict[Any, set[Any]] | None:
    """Return what can be reached from the start of each edge; None if there is a circle."""
    after: dict[Any, list[Any]] = {}
    missing: dict[Any, int] = {}
    for start, end in edges:
        after.setdefault(start, []).append(end)
        missing[end] = missing.get(end, 0) + 1
    order = [box for box in after if box not in missing]
    for box in order:
        for end in after.get(box, ()):
            missing[end] -= 1
            if not missing[end]:
                order.append(end)
    if any(missing.values()):
        return None
    reach: dict[Any, set[Any]] = {}
    for box in reversed(order):
        ends = after.get(box, ())
        reach[box] = {*ends}.union(*[reach[end] for end in ends])
    return reach
