"""Plots of cost with a dot for each way of computing, in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plots import COLORS, PANEL

NAMES, ROW = 2.2, 0.3  # inches for the names of the ways, and from row to row


class Dot(NamedTuple):
    """The cost of one way of computing a meta-gradient.

    Attributes:
        label: The name of the way.
        cost: What it costs.
        hollow: Whether it is another library's.
    """

    label: str
    cost: float
    hollow: bool = False


def save_dots(
    panels: Mapping[str, Sequence[Dot]],
    path: Path,
    *,
    xlabel: str,
    xformat: Callable[[float], str],
) -> None:
    """Draw one panel for each title, with the ways in the order of the first panel.

    Args:
        panels: The dots by title.
        path: A PNG file.
        xlabel: What the horizontal axes show.
        xformat: Turns a cost into text.
    """
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot, ticker

    ways = list(dict.fromkeys(dot.label for dots in panels.values() for dot in dots))
    figure, (row,) = pyplot.subplots(
        1,
        len(panels),
        sharey=True,
        squeeze=False,
        figsize=(NAMES + PANEL * len(panels), 1 + ROW * len(ways)),
        layout='constrained',
    )
    for axes, (title, dots), color in zip(row, panels.items(), COLORS):
        for dot in dots:
            place = dot.cost, ways.index(dot.label)
            face = 'white' if dot.hollow else color
            axes.plot(*place, 'o', color=color, markerfacecolor=face, markersize=7)
            axes.annotate(
                xformat(dot.cost),
                place,
                (8, 0),
                textcoords='offset points',
                va='center',
                fontsize=9,
            )
        most = max((dot.cost for dot in dots), default=1.0)
        axes.set(xlim=(0, 1.25 * most), title=title, xlabel=xlabel)
        axes.margins(y=0.08)
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: xformat(x)))
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    row[0].set_yticks(range(len(ways)), ways)
    row[0].invert_yaxis()
    figure.savefig(path, dpi=110, metadata={'Software': None})
