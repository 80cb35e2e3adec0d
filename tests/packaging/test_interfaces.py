"""What siblings import from core is public and documented, and core's modules form no circle."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
from pathlib import Path

import pytest

from support.imports import Import, imports_of

ROOT = Path(__file__).parents[2]
SOURCES = {path.parent.name: path.parent for path in ROOT.glob('packages/*/src/*/__init__.py')}
CORE = SOURCES.pop('torchopt')
MODULES = {
    '.'.join(path.relative_to(CORE.parent).with_suffix('').parts).removesuffix('.__init__'): path
    for path in CORE.rglob('*.py')
}

# The interface of core: names in these modules and packages change with a minor version only.
INTERFACE = ('base', 'pytree', 'typing', 'update', 'authoring', 'blocks', 'rules')

every_sibling = pytest.mark.parametrize('sibling', sorted(SOURCES))


def is_interface(module: str) -> bool:
    parts = module.split('.')[1:]
    private = any(part.startswith('_') for part in parts)
    return not private and (not parts or parts[0] in INTERFACE)


def names_of(module: str) -> set[str]:
    """What a module defines or re-exports as ``X as X``, but not what it imports for itself."""
    found: set[str] = set()
    for statement in ast.parse(MODULES[module].read_text()).body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            found.add(statement.name)
        elif isinstance(statement, ast.Assign):
            found |= {ast.unparse(target) for target in statement.targets}
        elif isinstance(statement, ast.AnnAssign):
            found.add(ast.unparse(statement.target))
        elif isinstance(statement, ast.ImportFrom):
            found |= {alias.name for alias in statement.names if alias.asname == alias.name}
    return found


def complaint(found: Import) -> str | None:
    """Why a sibling must not import this from core; None if it may."""
    if found.name is not None and f'{found.module}.{found.name}' in MODULES:
        found = Import(found.line, f'{found.module}.{found.name}', None)
    if not is_interface(found.module):
        return f'{found.module} is not in the interface of core'
    if found.name is None:
        return None
    if found.name.startswith('_'):
        return f'{found.module}.{found.name} is private'
    if found.name not in names_of(found.module):
        return f'{found.module} imports {found.name} for itself: import it from its home'
    return None


@every_sibling
def test_siblings_import_the_interface_of_core_alone(sibling: str) -> None:
    wrong = [
        f'{path.relative_to(ROOT)}:{found.line}: {reason}'
        for path in sorted(SOURCES[sibling].rglob('*.py'))
        for found in imports_of(ast.parse(path.read_text()))
        if found.top == 'torchopt' and (reason := complaint(found))
    ]
    assert not wrong, '\n'.join(wrong)


@every_sibling
def test_siblings_read_no_private_attribute_of_a_module_of_core(sibling: str) -> None:
    """Such as ``checks._number`` after ``from torchopt.authoring import checks``."""
    wrong = []
    for path in sorted(SOURCES[sibling].rglob('*.py')):
        tree = ast.parse(path.read_text())
        modules = {
            found.name or found.top
            for found in imports_of(tree)
            if (f'{found.module}.{found.name}' if found.name else found.module) in MODULES
        }
        wrong += [
            f'{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}'
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith('_')
            and not node.attr.startswith('__')
            and ast.unparse(node.value).partition('.')[0] in modules
        ]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize(
    ('module', 'name'),
    [
        ('torchopt._siblings', None),
        ('torchopt', '_siblings'),
        ('torchopt._siblings', 'resolve'),
        ('torchopt.unrolling', 'loop'),
        ('torchopt.optim.optimizer', 'Optimizer'),
        ('torchopt.authoring.checks', '_number'),
        ('torchopt.rules.adam', 'ema'),
        ('torchopt.update', 'torch'),
    ],
)
def test_an_import_from_elsewhere_is_noticed(module: str, name: str | None) -> None:
    assert complaint(Import(1, module, name))


def test_the_interface_is_documented() -> None:
    for name in INTERFACE:
        assert importlib.import_module(f'torchopt.{name}').__doc__
    text = importlib.import_module('torchopt.authoring').__doc__ or ''
    listed = set(re.findall(r':mod:`~([\w.]+)`', text))
    assert listed == {name for name in MODULES if name.startswith('torchopt.authoring.')}


def test_modules_of_core_form_no_circle() -> None:
    """A package that holds a module is run before it; these edges say nothing, and are left out."""
    graph = {}
    for module, path in MODULES.items():
        imports = imports_of(ast.parse(path.read_text()), functions=False, type_checking=False)
        needed = {
            f'{i.module}.{i.name}' if f'{i.module}.{i.name}' in MODULES else i.module
            for i in imports
        }
        graph[module] = needed & MODULES.keys()
    assert 'torchopt.rules' in graph['torchopt.registry'], 'imports were not read'
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f'these modules import each other: {error.args[1]}') from None
