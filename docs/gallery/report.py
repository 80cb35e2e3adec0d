"""What the pages of the gallery show: a picture of the recorded runs, and their table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import runs
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats


def interval(values: list[float]) -> str:
    """Return the mean of ``values`` with its 95 % interval, by Student's t distribution."""
    count, mean = len(values), sum(values) / len(values)
    digits = 3 if abs(mean) < 1 else 2 if abs(mean) < 10 else 1
    if count == 1:
        return f'{mean:.{digits}f} (one seed)'.replace('-', '−')
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count)
    if 0 < half < 0.5 * 10**-digits:
        digits = min(math.ceil(-math.log10(half)), 5)
    return f'{mean:.{digits}f} ± {half:.{digits}f}'.replace('-', '−')


def rows(experiment: ModuleType, records: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of an experiment's table: what is measured, the paper's number, and ours."""
    for label, key in experiment.ROWS:
        ours = interval([record['result'][key] for record in records])
        yield label, experiment.PAPER.get(label, '–'), ours


def table(experiment: ModuleType, records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the paper's numbers beside ours, and what the runs took."""
    lines = ['| | paper | here, mean and 95 % interval |', '|---|---|---|']
    lines += [f'| {" | ".join(row)} |' for row in rows(experiment, records)]
    seconds = sum(record['seconds'] for record in records) / len(records)
    settings = ', '.join(f'`{key}={value}`' for key, value in records[0]['settings'].items())
    seeds = f'{len(records)} seeds' if len(records) > 1 else 'One seed, which gives no interval'
    lines += ['', f'{seeds}, {seconds:.0f} s each on one core, with {settings}.']
    return '\n'.join(lines)


def picture(experiment: ModuleType, records: list[dict[str, Any]]) -> Figure:
    """Draw all records into one figure."""
    figure = plt.figure(layout='constrained')
    experiment.draw([record['result'] for record in records], figure)
    return figure


def band(axes: Axes, x: Any, values: list[list[float]], label: str) -> None:
    """Draw the mean of all runs as a line, and their range as a band.

    Args:
        axes: Where to draw.
        x: The points' places: shape (points,).
        values: Of every run at every point: shape (runs, points).
        label: The line's name in the legend.
    """
    found = np.array(values)
    (line,) = axes.plot(x, found.mean(0), label=label)
    axes.fill_between(
        x, found.min(0), found.max(0), color=line.get_color(), alpha=0.25, linewidth=0
    )


def recorded(name: str) -> tuple[ModuleType, list[dict[str, Any]]]:
    """Return an experiment with its recorded runs.

    Raises:
        FileNotFoundError: none was recorded with today's settings.
    """
    experiment = runs.load(name)
    path = Path(runs.GALLERY, f'{name}.jsonl')
    records = runs.read(path, experiment.SETTINGS)
    if not records:
        raise FileNotFoundError(
            f'{path.name} has no run of {name} with its present settings: '
            f'python -m nox -s gallery -- {name}'
        )
    return experiment, records


def show_picture(name: str) -> None:
    """Show the picture of the recorded runs in a notebook."""
    figure = picture(*recorded(name))
    display(figure)
    plt.close(figure)


def show_table(name: str) -> None:
    """Show the table of the recorded runs in a notebook."""
    display(Markdown(table(*recorded(name))))
