"""The times of meta-steps as a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from meta_steps.problems import PROBLEMS
from meta_steps.ways import WAYS


def save_plot(results: dict, path: Path) -> None:
    """Draw the time against the number of steps."""
    import matplotlib

    matplotlib.use('svg')
    matplotlib.rcParams['svg.hashsalt'] = 'meta-steps'
    from matplotlib import pyplot

    records = [record for record in results['records'] if 'median' in record]
    if not records:
        return
    threads = sorted({record['threads'] for record in records})
    figure, grid = pyplot.subplots(
        len(threads), len(PROBLEMS), sharex=True, squeeze=False, figsize=(11, 4.5 * len(threads))
    )
    for count, row in zip(threads, grid):
        for problem, axes in zip(PROBLEMS, row):
            for number, way in enumerate(WAYS):
                points = {
                    k: [
                        record['median'] * 1e3
                        for record in records
                        if (record['way'], record['problem'], record['threads'], record['steps'])
                        == (way.name, problem, count, k)
                    ]
                    for k in results['steps']
                }
                points = {k: median(times) for k, times in points.items() if times}
                if points:
                    axes.plot(
                        points.keys(),
                        points.values(),
                        marker='osD^v'[number % 5],
                        markersize=4,
                        linestyle='-' if way.compiled else '--',
                        color=matplotlib.colormaps['tab20'](number % 20),
                        label=way.name,
                    )
            axes.set(xscale='log', yscale='log', title=f'{problem}, threads: {count}')
            axes.set_xticks(results['steps'], map(str, results['steps']))
            axes.grid(alpha=0.3)
        row[0].set_ylabel('meta-step [ms]')
    for axes in grid[-1]:
        axes.set_xlabel('inner steps K')
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.text(0.01, 0.005, '\n'.join(results['heading']), fontsize=6)
    figure.savefig(path, metadata={'Date': None})
