"""Plots of cost against the number of inner steps, each line labelled where it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Okabe and Ito's colours, which colour-blind readers can tell apart; no plot has more lines.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#000000')
LABEL_GAP = 13.0  # between the centres of two labels, in points
# In inches: a panel, the room for its ticks and for the labels to its right.
PANEL, HEIGHT, TICKS, LABELS = 4.3, 4.0, 0.85, 1.95


class Line(NamedTuple):
    """One way of computing a meta-gradient.

    Attributes:
        label: What is written at its end.
        color: One of ``COLORS``.
        points: Cost by the number of steps.
        extrapolated: Numbers of steps whose costs were not measured, drawn hollow.
        dashed: Whether it is another library's.
    """

    label: str
    color: str
    points: Mapping[int, float]
    extrapolated: Sequence[int] = ()
    dashed: bool = False


def save_plot(
    panels: Mapping[str, Sequence[Line]],
    path: Path,
    *,
    ylabel: str,
    yformat: Callable[[float], str],
) -> None:
    """Draw one panel for each title.

    Args:
        panels: The lines by title.
        path: A PNG file.
        ylabel: What the vertical axes show.
        yformat: Turns a cost at a tick into text.
    """
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot, ticker

    width, height = len(panels) * (TICKS + PANEL + LABELS), HEIGHT + 1.0
    figure = pyplot.figure(figsize=(width, height))
    row = [
        figure.add_axes(
            (
                (TICKS + number * (TICKS + PANEL + LABELS)) / width,
                0.55 / height,
                PANEL / width,
                HEIGHT / height,
            )
        )
        for number in range(len(panels))
    ]
    for axes, (title, lines) in zip(row, panels.items()):
        for line in lines:
            axes.plot(
                list(line.points),
                list(line.points.values()),
                '--' if line.dashed else '-',
                color=line.color,
            )
            for steps, cost in line.points.items():
                face = 'white' if steps in line.extrapolated else line.color
                axes.plot(steps, cost, 'o', color=line.color, markerfacecolor=face, markersize=5)
        lengths = sorted({steps for line in lines for steps in line.points})
        axes.set(xscale='log', yscale='log', xlabel='inner steps', title=title)
        axes.xaxis.set_major_locator(ticker.FixedLocator(lengths))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:,.0f}'))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: yformat(y)))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    row[0].set_ylabel(ylabel)
    figure.canvas.draw()
    for axes, lines in zip(row, panels.values()):
        _label(axes, lines)
    figure.savefig(path, dpi=110, metadata={'Software': None})
    pyplot.close(figure)


def _label(axes: Any, lines: Sequence[Line]) -> None:
    """Write each label to the right of the line's end; labels of equal ends move apart."""
    scale = 72 / axes.figure.dpi
    for end in {max(line.points) for line in lines}:
        here = sorted(
            (axes.transData.transform((end, line.points[end]))[1] * scale, line)
            for line in lines
            if max(line.points) == end
        )
        heights = spread([height for height, _ in here], LABEL_GAP)
        for (height, line), moved in zip(here, heights):
            axes.annotate(
                line.label,
                (end, line.points[end]),
                xytext=(16, moved - height),
                textcoords='offset points',
                color=line.color,
                va='center',
                fontsize=9,
                arrowprops={'arrowstyle': '-', 'color': line.color, 'lw': 0.6, 'shrinkB': 4},
            )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart by at least ``gap``, each group about its own centre.

    The least squared displacement: neighbours that are too close form a block, which is centred
    on the mean of its members and merges with the block below as long as the two overlap.
    """
    blocks: list[list[float]] = []  # of each member the height at which the block would begin

    def start(block: list[float]) -> float:
        return sum(block) / len(block)

    for height in heights:
        blocks.append([height])
        while len(blocks) > 1:
            below, above = blocks[-2:]
            if start(below) + gap * len(below) <= start(above):
                break
            blocks[-2:] = [below + [at - gap * len(below) for at in above]]
    return [start(block) + gap * i for block in blocks for i in range(len(block))]
