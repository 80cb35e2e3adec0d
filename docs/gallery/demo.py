"""Three experiments of the gallery in under three minutes, and a page that shows them.

``nox -s demo`` calls this.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import runs
import torch
from tqdm import tqdm

import report

# Settings of each experiment that take seconds, and what to see in its picture.
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    'distillation': (
        {'rounds': 100, 'steps': 5, 'networks': 4},
        'Ten images begin as noise. In every round networks take five steps on them, and the '
        'gradient of their loss on real digits, through these steps, changes the images and the '
        'learning rates. In the end the images show what tells digits apart, rather than digits.',
    ),
    'reweighting': (
        {'noise': 0.4, 'clean': 50, 'steps': 1200},
        'Forty percent of the labels are wrong. Every batch is weighted by how much a step on each '
        'example would help on fifty clean ones. The last two rows of pictures show what goes '
        'wrong: the examples with a right label that have the least weight, and those with a wrong '
        'label that have the most. They come from few digits. A digit of which there are few clean '
        'examples is mistrusted as a whole, and one of which there are many is trusted, whatever '
        'the image. The correlation in the table says how much.',
    ),
    'maml': (
        {'iterations': 600, 'tasks': 10, 'test_tasks': 200, 'compiled': False},
        'Initial parameters are learned from which one gradient step on ten points fits a sinusoid '
        'that was not seen before, and with Meta-SGD a learning rate for every parameter, too. '
        'Parameters that were trained on all sinusoids at once do not adapt.',
    ),
}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>torchopt: the demo</title>
<style>
body {{ max-width: 60rem; margin: auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }}
img {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #8886; text-align: left }}
</style>
<h1>torchopt: the demo</h1>
{parts}
</html>
"""


def part_of_page(experiment: Any, records: list[dict[str, Any]], words: str) -> str:
    """Return an experiment's heading, picture, table and explanation as HTML."""
    figure, file = report.picture(experiment, records), io.BytesIO()
    figure.savefig(file, format='png', dpi=150)
    title, _, source = html.escape(' '.join(experiment.__doc__.split())).partition('. ')
    data = base64.b64encode(file.getvalue()).decode()
    rows = ''.join(
        '<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in row) + '</tr>\n'
        for row in report.rows(experiment, records)
    )
    return (
        f'<h2>{title}</h2>\n<img alt="{title}" src="data:image/png;base64,{data}">\n'
        f'<p>{html.escape(words)}</p>\n'
        f'<table>\n<tr><th></th><th>paper</th><th>here, 95 % interval</th></tr>\n{rows}</table>\n'
        f"<p>{source} The data, the network and the settings differ from the paper's: "
        f'see docs/gallery/{experiment.__name__}.md.</p>\n'
    )


def run(seeds: int, output: Path, small: bool = False) -> Path:
    """Run all parts; print their tables; write a page with all pictures, and return its path."""
    mpl.rc_file(runs.GALLERY.parent / '_static' / 'matplotlibrc')
    mpl.use('agg')
    parts = []
    for name, (settings, words) in PARTS.items():
        experiment = runs.load(name)
        chosen = experiment.SMALL if small else settings
        bar = tqdm(range(seeds), name, unit='seed')
        records = [runs.record(experiment, seed, chosen) for seed in bar]
        print(f'\n{report.table(experiment, records)}\n')
        parts.append(part_of_page(experiment, records, words))
    output.mkdir(parents=True, exist_ok=True)
    page = output / 'demo.html'
    page.write_text(PAGE.format(parts='\n'.join(parts)), encoding='utf-8')
    return page


if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='demo', description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=3, help='of each part')
    parser.add_argument('--output', type=Path, default=Path('demo-output'), help='for the page')
    parser.add_argument('--small', action='store_true', help='settings that take seconds')
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error('--seeds must be at least 1')
    torch.set_num_threads(1)  # the networks are too small to share among threads
    print(f'page: {run(options.seeds, options.output, options.small).resolve()}')
