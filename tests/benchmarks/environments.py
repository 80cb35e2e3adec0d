"""One environment for each library that can't share the project's environment."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from libraries import Library


def pythons_of(
    libraries: Iterable[Library], folder: Path
) -> tuple[dict[Library, Path], dict[str, str]]:
    """Return the interpreter of each library, and by name why a library has none."""
    pythons, failures = {}, {}
    for library in libraries:
        try:
            pythons[library] = python_of(library, folder)
        except subprocess.CalledProcessError as error:
            failures[library.name] = f'`{" ".join(map(str, error.cmd[1:]))}` failed'
    return pythons, failures


def python_of(library: Library, folder: Path) -> Path:
    """Return the interpreter of the library's environment, rebuilt if its recipe has changed.

    Raises:
        subprocess.CalledProcessError: The library can't be installed here.
    """
    if library.installs is None:
        return Path(sys.executable)
    # Install torch first, by its full version, so that no later step installs another one.
    torch, plugin = (
        f'{name}=={version(name).partition("+")[0]}' for name in ('torch', 'pytest-benchmark')
    )
    steps = [torch, f'numpy {plugin}', *library.installs]
    environment = folder / library.name.replace(' ', '-')
    python = environment / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')
    recipe = environment / 'recipe.txt'
    wanted = '\n'.join([sys.version, *steps])
    if recipe.exists() and recipe.read_text() == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    _run('-m', 'venv', '--without-pip', environment)
    for step in steps:
        print(f'  {library.name}: pip install {step}', file=sys.stderr)
        _run('-m', 'pip', '--python', python, 'install', '--quiet', *shlex.split(step))
    recipe.write_text(wanted)
    return python


def _run(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=sys.stderr)
