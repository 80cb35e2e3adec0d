"""Import arrows between the packages point one way: accel, meta, utils -> core."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = {path.parent.name: path.parent for path in ROOT.glob('packages/*/src/*/__init__.py')}
ALLOWED = {
    'torchopt': set(),
    'torchopt_accel': {'torchopt'},
    'torchopt_meta': {'torchopt'},
    'torchopt_utils': {'torchopt'},
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'


def imports_of(tree: ast.AST) -> set[str]:
    """Top-level modules imported anywhere in a file, functions included, but for types alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'relative import in line {node.lineno}'
            assert node.module is not None
            found.add(node.module.partition('.')[0])
        found |= imports_of(node)
    return found


def siblings_loaded_by(module: str) -> set[str]:
    code = f'import sys, json, {module}; print(json.dumps(list(sys.modules)))'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    return OWN.keys() & set(json.loads(result.stdout)) - {module}


def test_every_package_has_its_arrows() -> None:
    assert OWN.keys() == ALLOWED.keys()


@pytest.mark.parametrize('module', sorted(ALLOWED))
def test_sources_import_only_what_arrows_allow(module: str) -> None:
    for path in sorted(OWN[module].rglob('*.py')):
        foreign = imports_of(ast.parse(path.read_text())) & OWN.keys() - {module}
        assert foreign <= ALLOWED[module], f'{path.relative_to(ROOT)} imports {foreign}'


@pytest.mark.slow
@pytest.mark.parametrize('module', sorted(ALLOWED))
def test_import_loads_only_what_arrows_allow(module: str) -> None:
    assert siblings_loaded_by(module) == ALLOWED[module]
