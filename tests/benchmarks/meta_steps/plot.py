"""The times of meta-steps as plots."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from dots import Dot, save_dots
from libraries import PROJECT
from meta_steps.problems import PROBLEMS
from meta_steps.ways import WAYS
from plots import COLORS, Line, save_plot
from problems import SINUSOIDS

# {(way, problem): {number of steps: seconds}}
Times = dict[tuple[str, str], dict[int, float]]


def draw(results: dict, lines: Path, dots: Path) -> None:
    """Draw the times with the least number of threads.

    Args:
        results: The stored results.
        lines: File for the plotted ways on sinusoids, against the number of steps.
        dots: File for all ways on deep networks.
    """
    times = _times(results['records'])
    panels = {
        f'{name}: {size}': [
            Line(way.name, color, times[way.name, name], dashed=way.library is not PROJECT)
            for way, color in zip((way for way in WAYS if way.plotted), COLORS, strict=True)
            if (way.name, name) in times
        ]
        for name, size in SINUSOIDS.items()
    }
    if any(panels.values()):
        save_plot(panels, lines, ylabel='time of one meta-step', yformat=_seconds)
    deep = {
        f'{name}, {steps} steps': [
            Dot(way.name, times[way.name, name][steps], hollow=way.library is not PROJECT)
            for way in WAYS
            if (way.name, name) in times
        ]
        for name, problem in PROBLEMS.items()
        if problem.is_deep
        for steps in problem.lengths(results['steps'])
    }
    if any(deep.values()):
        save_dots(deep, dots, xlabel='time of one meta-step', xformat=_seconds)


def _times(records: list[dict]) -> Times:
    """Return the medians over processes with the least number of threads."""
    timed = [record for record in records if 'median' in record]
    least = min((record['threads'] for record in timed), default=1)
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for record in timed:
        if record['threads'] == least:
            row = found.setdefault((record['way'], record['problem']), {})
            row.setdefault(record['steps'], []).append(record['median'])
    return {
        where: {steps: median(row[steps]) for steps in sorted(row)} for where, row in found.items()
    }


def _seconds(value: float) -> str:
    return f'{value * 1e3:.3g} ms' if value < 1 else f'{value:.3g} s'
