"""The gallery's front page: a small picture of every experiment, and all their tables as one."""

from __future__ import annotations

import base64
import html
import io

import matplotlib.pyplot as plt
import runs
from IPython.display import HTML, Markdown, display

import report


def title(name: str) -> str:
    """Return the first line of an experiment's docstring."""
    return (runs.load(name).__doc__ or name).splitlines()[0].rstrip('.')


def thumbnail(name: str) -> str:
    """Return a link to an experiment's page that shows its picture, as HTML."""
    experiment, records = report.recorded(name)
    figure, file = report.picture(experiment, records), io.BytesIO()
    figure.savefig(file, format='png', dpi=70)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(title(name))
    source = f'data:image/png;base64,{data}'
    return f'<a href="{name}.html"><img alt="{text}" src="{source}"><span>{text}</span></a>'


def show_pictures() -> None:
    """Show all pictures in a notebook, each as a link to its page."""
    links = '\n'.join(map(thumbnail, runs.names()))
    display(HTML(f'<div class="gallery">{links}</div>'))


def table() -> str:
    """Return one Markdown table of all papers' numbers beside ours."""
    lines = ['| experiment | | paper | here | seeds | time of one |', '|---|---|---|---|---|---|']
    for name in runs.names():
        experiment, records = report.recorded(name)
        seconds = sum(record['seconds'] for record in records) / len(records)
        first = f'[{title(name)}]({name}.md)'
        for row in report.rows(experiment, records):
            cells = [first, *row, f'{len(records)}', f'{seconds:.0f} s']
            lines.append(f'| {" | ".join(cells)} |')
            first = ''
    return '\n'.join(lines)


def show_table() -> None:
    """Show the table of all experiments in a notebook."""
    display(Markdown(table()))
