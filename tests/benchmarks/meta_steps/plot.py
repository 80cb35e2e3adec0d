"""The times of meta-steps as a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from libraries import PROJECT
from meta_steps.ways import WAYS
from plots import COLORS, Line, save_plot
from problems import SINUSOIDS


def draw(results: dict, path: Path) -> None:
    """Draw the times of the plotted ways with the least number of threads."""
    records = [record for record in results['records'] if 'median' in record]
    if not records:
        return
    threads = min(record['threads'] for record in records)
    panels = {}
    for problem, size in SINUSOIDS.items():
        lines = []
        for way, color in zip((way for way in WAYS if way.plotted), COLORS, strict=True):
            times: dict[int, list[float]] = {}
            for record in records:
                where = record['way'], record['problem'], record['threads']
                if where == (way.name, problem, threads):
                    times.setdefault(record['steps'], []).append(record['median'])
            if times:
                points = {steps: median(times[steps]) for steps in sorted(times)}
                lines.append(Line(way.name, color, points, dashed=way.library is not PROJECT))
        if lines:
            panels[f'{problem}: {size}'] = lines
    save_plot(panels, path, ylabel='time of one meta-step', yformat=_seconds)


def _seconds(value: float) -> str:
    return f'{value * 1e3:g} ms' if value < 1 else f'{value:g} s'
