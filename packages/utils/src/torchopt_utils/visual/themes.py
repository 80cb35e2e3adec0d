"""Colours and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from torchopt_utils.visual.picture import Kind

Theme: TypeAlias = Literal['auto', 'light', 'dark']


class Looks(NamedTuple):
    """The looks of a picture.

    Attributes:
        ink: Colour of edges, titles and frames, which lie on the page.
        frame: Fill of clusters, half transparent.
        boxes: Attributes of the boxes of each kind.
    """

    ink: str
    frame: str
    boxes: Mapping[Kind, Mapping[str, str]]


# After Okabe and Ito, whose colours people with any colour vision tell apart; fills are tints of
# them, with dark text, or shades with light text. Shapes and frames tell the kinds apart, too.
_TINTS: Mapping[Kind, str] = {
    'parameter': '#a6d4f2',
    'meta': '#f6c667',
    'state': '#8ed1b8',
    'operation': '#e4e4e4',
    'update': '#8ed1b8',
    'fold': '#e4e4e4',
    'named': '#f3ea9c',
    'output': '#e3b3cd',
    'missing': '#ffffff00',
    'cut': '#ffffff00',
}
_SHADES: Mapping[Kind, str] = {
    'parameter': '#12537a',
    'meta': '#8a5a00',
    'state': '#0b6349',
    'operation': '#3c3f44',
    'update': '#0b6349',
    'fold': '#3c3f44',
    'named': '#6b6410',
    'output': '#7c3d60',
    'missing': '#00000000',
    'cut': '#00000000',
}
_SHAPES: Mapping[Kind, Mapping[str, str]] = {
    'meta': {'shape': 'ellipse', 'style': 'filled', 'margin': '0.04,0.02'},
    'state': {'shape': 'ellipse', 'style': 'filled', 'margin': '0.04,0.02'},
    'fold': {'peripheries': '2'},
    'output': {'shape': 'box', 'style': 'filled', 'penwidth': '1.6'},
    'missing': {'style': 'dashed,rounded'},
    'cut': {'style': 'dashed,rounded'},
}


def _looks(ink: str, frame: str, fills: Mapping[Kind, str], text: str, border: str) -> Looks:
    boxes = {}
    for kind, fill in fills.items():
        on_page = fill.endswith('00') and len(fill) == 9
        boxes[kind] = {
            'fillcolor': fill,
            'fontcolor': ink if on_page else text,
            'color': ink if on_page else border,
            **_SHAPES.get(kind, {}),
        }
    return Looks(ink, frame, boxes)


THEMES: Mapping[Theme, Looks] = {
    # Grey that can be read on white and on black; boxes have a ground of their own.
    'auto': _looks('#7f7f7f', '#7f7f7f1c', _TINTS, '#1a1a1a', '#7f7f7f'),
    'light': _looks('#3d3d3d', '#0000000c', _TINTS, '#111111', '#5a5a5a'),
    'dark': _looks('#c4c8cc', '#ffffff12', _SHADES, '#f4f4f4', '#9aa0a6'),
}
