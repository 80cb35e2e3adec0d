"""Import arrows between the packages point one way: accel, meta, utils -> core."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.imports import imports_of

ROOT = Path(__file__).parents[2]
OWN = {path.parent.name: path.parent for path in ROOT.glob('packages/*/src/*/__init__.py')}
ALLOWED = {
    'torchopt': set(),
    'torchopt_accel': {'torchopt'},
    'torchopt_meta': {'torchopt'},
    'torchopt_utils': {'torchopt'},
}


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
        imports = imports_of(ast.parse(path.read_text()), type_checking=False)
        foreign = {found.top for found in imports} & OWN.keys() - {module}
        assert foreign <= ALLOWED[module], f'{path.relative_to(ROOT)} imports {foreign}'


@pytest.mark.slow
@pytest.mark.parametrize('module', sorted(ALLOWED))
def test_import_loads_only_what_arrows_allow(module: str) -> None:
    assert siblings_loaded_by(module) == ALLOWED[module]
