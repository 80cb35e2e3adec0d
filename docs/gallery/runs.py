"""Runs of an experiment, one JSON record a seed, so that a run that was stopped goes on.

An experiment is a module of this folder with

- ``SETTINGS`` and ``SMALL``, keyword arguments of ``run``: the full ones, and some that take a
  few seconds;
- ``SEEDS``, the number of seeds of the full settings;
- ``run(seed, **settings)``, which returns a dictionary of numbers and nested lists of numbers;
- ``ROWS``, the rows of its page's table: pairs of a label and a key of what ``run`` returns;
- ``PAPER``, the paper's numbers by label, as text, where they are known;
- ``draw(runs, figure)``, which draws what all runs returned into a matplotlib figure.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

GALLERY = Path(__file__).parent
sys.path.append(str(GALLERY.parent / 'examples'))  # on which experiments may build


def names() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in GALLERY.glob('*.py') if '\ndef draw(' in path.read_text())


def load(name: str) -> ModuleType:
    """Import an experiment.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in names():
        raise ValueError(f'no experiment is called {name!r}; there are {", ".join(names())}')
    return importlib.import_module(name)


def read(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records in a file that were made with ``settings``, by rising seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    # Settings go through JSON, which makes lists of tuples.
    wanted = json.loads(json.dumps(settings))
    return sorted(
        (record for record in records if record['settings'] == wanted),
        key=lambda record: record['seed'],
    )


def record(experiment: ModuleType, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run an experiment once; return what is written of the run.

    Numbers are kept to 5 digits, so that records stay small.
    """
    start = time.process_time()
    result = experiment.run(seed, **settings)
    seconds = round(time.process_time() - start, 1)
    result = json.loads(json.dumps(result), parse_float=lambda text: float(f'{float(text):.5g}'))
    return {'seed': seed, 'settings': settings, 'seconds': seconds, 'result': result}


def complete(
    experiment: ModuleType, path: Path, settings: dict[str, Any], seeds: int
) -> list[dict[str, Any]]:
    """Run the seeds that ``path`` does not have yet; write each record when it is known.

    Numbers are kept to 5 digits, so that records stay small.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {record['seed'] for record in read(path, settings)}
    for seed in tqdm([seed for seed in range(seeds) if seed not in found], path.stem, unit='seed'):
        line = json.dumps(record(experiment, seed, settings))
        with path.open('a') as file:
            file.write(line + '\n')
    return [record for record in read(path, settings) if record['seed'] < seeds]
