"""A picture as a graph of graphviz."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchopt_utils.visual.picture import Picture
from torchopt_utils.visual.themes import Looks

if TYPE_CHECKING:
    from graphviz import Digraph  # type: ignore[import-untyped,import-not-found,unused-ignore]

_FONT = 'Helvetica,Arial,sans-serif'


def rendered(picture: Picture, looks: Looks) -> Digraph:
    """Return the graph of graphviz that shows ``picture``."""
    try:
        import graphviz  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'make_dot draws with graphviz: pip install graphviz', name=error.name
        ) from error
    text = {'fontname': _FONT, 'fontsize': '11'}
    dot = graphviz.Digraph(
        graph_attr={
            **text,
            'bgcolor': 'transparent',
            'fontcolor': looks.ink,
            'nodesep': '0.25',
            'ranksep': '0.3',
        },
        node_attr={
            **text,
            'shape': 'box',
            'style': 'filled,rounded',
            'margin': '0.11,0.055',
            'height': '0',
        },
        edge_attr={
            **text,
            'fontsize': '10',
            'color': looks.ink,
            'fontcolor': looks.ink,
            'arrowsize': '0.6',
        },
    )
    names: dict[Any, str] = {}
    _add_boxes(dot, graphviz.Digraph, picture, looks, names)
    computed = {end for (_, end), edge in picture.edges.items() if not edge.is_cut}
    beginning = [
        names[key]
        for key, box in picture.boxes.items()
        if box.kind == 'parameter' and key not in computed
    ]
    if picture.has_rows and len(beginning) > 1:
        dot.body.append(f'\t{{rank=same {" ".join(beginning)}}}\n')
    # dot makes room for the edges that come last at the side of the others.
    for (start, end), edge in sorted(picture.edges.items(), key=lambda item: item[1].is_state):
        attributes: dict[str, str] = {}
        if edge.labels:
            # In two lines, because there is little room beside a step.
            fields = ', '.join([label for label in edge.labels if label != 'params'])
            lines = ['params'] * ('params' in edge.labels) + [fields] * bool(fields)
            attributes['label'] = '\n'.join(f' {line}' for line in lines)
        if edge.is_state or edge.is_cut:
            attributes['style'] = 'dashed'
        elif picture.boxes[start].kind not in ('parameter', 'meta'):
            # The way through the steps is straight, and everything else goes around it.
            attributes['weight'] = '4'
        dot.edge(names[start], names[end], **attributes)
    return dot


def _add_boxes(
    dot: Digraph, make: Any, picture: Picture, looks: Looks, names: dict[Any, str]
) -> None:
    """Add every box to the cluster that it is in."""
    numbers = itertools.count()
    clusters: dict[tuple[tuple[str, str], ...], Any] = {(): dot}
    for key, box in picture.boxes.items():
        for depth in range(1, len(box.clusters) + 1):
            path = box.clusters[:depth]
            if path not in clusters:
                name, title = path[-1]
                clusters[path] = make(name=f'cluster {name}', graph_attr=_frame(title, looks))
        is_output = isinstance(key, tuple) and key[0] == 'out'
        names[key] = f'out{key[1]}' if is_output else str(next(numbers))
        attributes: Mapping[str, str] = looks.boxes[box.kind]
        clusters[box.clusters].node(names[key], '\n'.join(box.lines), **attributes)
    for path in sorted(clusters, key=len, reverse=True):
        if path:
            clusters[path[:-1]].subgraph(clusters[path])


def _frame(title: str, looks: Looks) -> dict[str, str]:
    return {
        'label': title,
        'labeljust': 'l',
        'style': 'filled,rounded',
        'fillcolor': looks.frame,
        'color': looks.ink,
        'penwidth': '0.5',
    }
