"""What a graph in the language of graphviz says, for tests of its structure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LABEL = re.compile(r'label=("(?:[^"\\]|\\.)*"|[^\s\]]+)', re.S)
_STATEMENT = re.compile(r'\t+(?:[^"\n]|"(?:[^"\\]|\\.)*")*\n', re.S)


@dataclass
class Parsed:
    """A graph.

    Attributes:
        labels: Text of every box.
        attributes: Everything in a box's brackets.
        edges: Pairs of boxes, with the label of the edge.
        cluster: Titles of the clusters that each box is in, the outermost first.
    """

    labels: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)
    cluster: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def texts(self) -> list[str]:
        """The text of all boxes, sorted, with ``/`` for a new line."""
        return sorted(label.replace('\n', '/') for label in self.labels.values())

    def inside(self, *clusters: str) -> list[str]:
        """The text of the boxes in a cluster itself."""
        names = [name for name, titles in self.cluster.items() if titles == clusters]
        return sorted(self.labels[name].replace('\n', '/') for name in names)

    def named(self, start: str, *clusters: str) -> str:
        """The box whose text begins with ``start``, of those in a cluster."""
        found = [
            name
            for name, label in self.labels.items()
            if label.startswith(start) and self.cluster[name] == clusters
        ]
        assert len(found) == 1, (start, clusters, found)
        return found[0]


def parsed(source: str) -> Parsed:
    """Read the source of a graph that ``graphviz`` has written."""
    result = Parsed()
    titles: list[str] = []
    for match in _STATEMENT.finditer(source):
        statement = match.group().strip()
        if statement.startswith('subgraph'):
            titles.append('')
        elif statement == '}':
            titles.pop()
        elif statement.startswith('graph'):
            if titles:
                titles[-1] = _label(statement)
        elif edge := re.match(r'(\w+) -> (\w+)', statement):
            result.edges[edge.group(1), edge.group(2)] = _label(statement).strip()
        elif box := re.match(r'(\w+) \[', statement):
            name = box.group(1)
            if name not in ('node', 'edge'):
                result.labels[name] = _label(statement)
                result.attributes[name] = statement
                result.cluster[name] = tuple(titles)
    return result


def _label(statement: str) -> str:
    found = _LABEL.search(statement)
    return found.group(1).strip('"') if found else ''
