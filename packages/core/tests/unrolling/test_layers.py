"""Files of ``unrolling`` import only files of lower layers, as its docstring lists them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from torchopt import unrolling

FOLDER = Path(unrolling.__file__).parent
# From top to bottom: a folder, or a file without its suffix.
LAYERS = [
    line.split()[0].removesuffix('.py').removesuffix('/')
    for line in (unrolling.__doc__ or '').splitlines()
    if line.startswith('    ')
]
# Inside a folder no order is listed, but imports must not form a circle.
FILES = sorted(FOLDER.rglob('*.py'))


def imported_by(path: Path) -> set[str]:
    """Names below ``torchopt.unrolling`` that a file imports, in its functions too."""
    prefix = 'torchopt.unrolling.'
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        assert 'torchopt.unrolling' not in names, 'import from the file that defines the name'
        found |= {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return found


def module_of(path: Path) -> str:
    return '.'.join(path.relative_to(FOLDER).with_suffix('').parts)


MODULES = {module_of(path): path for path in FILES if path.name != '__init__.py'}


def test_every_file_has_its_layer() -> None:
    assert sorted(LAYERS) == sorted({module.partition('.')[0] for module in MODULES})


@pytest.mark.parametrize('module', sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    own = module.partition('.')[0]
    for name in imported_by(MODULES[module]):
        other = name.partition('.')[0]
        assert other == own or LAYERS.index(other) > LAYERS.index(own), f'imports {name}'


def test_no_circle() -> None:
    waiting = {module: imported_by(path) & MODULES.keys() for module, path in MODULES.items()}
    while waiting:
        ready = {module for module, needed in waiting.items() if not needed & waiting.keys()}
        assert ready, f'imports form a circle among {sorted(waiting)}'
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
