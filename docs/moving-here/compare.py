"""Runs the programs of these pages, beside what other libraries have computed in them.

``python compare.py PROGRAM`` runs one program and prints a record; ``record.py`` calls it in the
environment of each library. The records are in ``peers.jsonl``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import platform
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUMBER = re.compile(r'[-+]?\d+\.\d*(?:e[-+]?\d+)?|\bnan\b')


def output_of(program: str) -> str:
    """Run a program and return what it prints, with eight digits."""
    import torch

    default = torch.get_default_dtype()
    torch.set_printoptions(precision=8, linewidth=100)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(HERE / 'programs' / program))
    finally:
        torch.set_default_dtype(default)
        torch.set_printoptions(profile='default')
    return printed.getvalue()


def records() -> dict[str, dict[str, Any]]:
    """Return what other libraries have computed, by program."""
    lines = (HERE / 'peers.jsonl').read_text().splitlines()
    return {record['program']: record for record in map(json.loads, lines)}


def numbers(text: str) -> list[float]:
    """Return the numbers with a decimal point in a text, and its NaNs."""
    return [float(number) for number in NUMBER.findall(text)]


def agree(one: str, other: str) -> bool:
    """Return whether two outputs have the same numbers, to the digits that are printed."""
    pairs = list(zip(numbers(one), numbers(other), strict=True))
    return bool(pairs) and all(math.isclose(a, b, rel_tol=1e-6, abs_tol=2e-8) for a, b in pairs)


def show(theirs: str, ours: str, *, same: bool = True) -> None:
    """Print what a program computes with this library, beside another one's record.

    Args:
        theirs: The other library's program.
        ours: The program for this library, which runs now; it may be the same.
        same: Whether the numbers are the same.

    Raises:
        AssertionError: The numbers differ, or don't, other than ``same`` says.
    """
    record = records()[theirs]
    found = output_of(ours)
    if agree(record['output'], found) != same:
        raise AssertionError(f'{theirs} has given\n{record["output"]}and {ours} gives\n{found}')
    print(f'{record["library"]}:\n{record["output"]}\nthis library:\n{found}', end='')


def record(program: str) -> dict[str, str]:
    """Run a program in an environment of its own library."""
    if importlib.util.find_spec('learn2learn'):
        # Its __init__ imports gym, torchvision and more, which MAML does not need. A module that
        # was created but not executed lets Python find the submodules.
        sys.modules['learn2learn'] = importlib.util.module_from_spec(
            importlib.util.find_spec('learn2learn')
        )
    warnings.simplefilter('ignore')
    output = output_of(program)
    versions = {'python': platform.python_version()}
    for name in ('torch', 'jax'):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    return {'program': program, **versions, 'output': output}


if __name__ == '__main__':
    print(json.dumps(record(sys.argv[1])))
