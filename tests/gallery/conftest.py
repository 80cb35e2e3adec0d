"""Experiments of the gallery, imported as Python and Sphinx import them, and run in small."""

import importlib
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[2] / 'docs' / 'gallery'


@pytest.fixture
def gallery(monkeypatch):
    """Import modules of the gallery, as Python and Sphinx do when they run them."""
    monkeypatch.setenv('MPLBACKEND', 'agg')
    monkeypatch.setattr(sys, 'path', [str(GALLERY), str(GALLERY.parent / 'examples'), *sys.path])
    return importlib.import_module


@pytest.fixture
def small(gallery, tmp_path):
    """Run an experiment in small, draw it, and return it with its result."""

    def run(name):
        experiment = gallery(name)
        path = tmp_path / f'{name}.jsonl'
        records = gallery('runs').complete(experiment, path, experiment.SMALL, 1)
        report = gallery('report')
        report.picture(experiment, records).savefig(path.with_suffix('.png'))
        assert path.with_suffix('.png').stat().st_size > 10_000
        assert all(label in report.table(experiment, records) for label, _ in experiment.ROWS)
        return experiment, records[0]['result']

    return run
