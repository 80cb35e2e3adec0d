"""The registry, the classes and the names that ``torchopt`` shows agree."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import torchopt
import torchopt_meta
import torchopt_utils
from torchopt import _siblings, rules
from torchopt.base import FusedTransformation
from torchopt.registry import OPTIMIZERS, OptimizerEntry

OWNERS = {'torchopt_meta': torchopt_meta, 'torchopt_utils': torchopt_utils}
every_optimizer = pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)


@every_optimizer
def test_registered_names_exist(entry: OptimizerEntry) -> None:
    assert getattr(torchopt, entry.name) is entry.factory
    for owner, prefix, base in (
        (torchopt, '', torchopt.Optimizer),
        (torchopt_meta, 'Meta', torchopt_meta.MetaOptimizer),
    ):
        named = [getattr(owner, prefix + name) for name in entry.class_names]
        assert len(set(named)) == 1, 'an alias is the class itself'
        assert issubclass(named[0], base)
        assert named[0].__name__ == prefix + entry.class_name


@every_optimizer
@pytest.mark.parametrize('prefix', ['', 'Meta'])
def test_classes_take_the_arguments_of_their_factory(entry: OptimizerEntry, prefix: str) -> None:
    accepted = inspect.signature(getattr(torchopt, prefix + entry.class_name)).parameters
    assert list(accepted.values())[1:] == list(inspect.signature(entry.factory).parameters.values())


@pytest.mark.parametrize(
    'entry', [entry for entry in OPTIMIZERS if entry.fused], ids=lambda entry: entry.name
)
def test_what_the_registry_calls_fused_has_kernels(entry: OptimizerEntry) -> None:
    assert isinstance(entry.factory(use_accelerated_op=True), FusedTransformation)


def test_every_rule_is_registered() -> None:
    shown = {name for name, value in vars(rules).items() if not name.startswith('_')}
    assert shown == {entry.name for entry in OPTIMIZERS}


@every_optimizer
def test_parts_of_a_rule_are_transformations_that_users_find(entry: OptimizerEntry) -> None:
    home = inspect.getmodule(inspect.unwrap(entry.factory))
    parts = {name for name in vars(home) if name.startswith('scale_by_')}
    for name in parts - {'scale_by_learning_rate'}:
        assert getattr(torchopt.transform, name) is getattr(home, name)


def test_every_class_is_registered() -> None:
    for module, prefix, base in (
        (torchopt, '', torchopt.Optimizer),
        (torchopt_meta, 'Meta', torchopt_meta.MetaOptimizer),
    ):
        shown = {
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, base) and value is not base
        }
        assert shown == {prefix + name for entry in OPTIMIZERS for name in entry.class_names}


def names_for_type_checkers() -> dict[str, set[str]]:
    """Names that ``torchopt`` re-exports under TYPE_CHECKING, by the module they come from."""
    (block,) = (
        node
        for node in ast.parse(Path(torchopt.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    )
    found: dict[str, set[str]] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        names = found.setdefault(statement.module.partition('.')[0], set())
        for alias in statement.names:
            if alias.name == '*':
                names.update(importlib.import_module(statement.module).__all__)
            else:
                assert alias.name == alias.asname, 'only `X as X` is a re-export to type checkers'
                names.add(alias.name)
    return found


def test_type_checkers_see_the_names_that_resolve() -> None:
    late = {*_siblings.LATE_MODULES, *_siblings.LATE_FUNCTIONS}
    resolved: dict[str, set[str]] = {'torchopt': late}
    for name, module in _siblings._OWNERS.items():
        resolved.setdefault(module, set()).add(name)
    assert names_for_type_checkers() == resolved


@pytest.mark.parametrize('name', sorted(_siblings._OWNERS))
def test_names_of_siblings_resolve(name: str) -> None:
    assert getattr(torchopt, name) is getattr(OWNERS[_siblings._OWNERS[name]], name)
    assert name in dir(torchopt)
    assert name in torchopt.__all__


def test_everything_that_is_listed_exists() -> None:
    assert len(set(dir(torchopt))) == len(dir(torchopt))
    for name in [*dir(torchopt), *torchopt.__all__]:
        getattr(torchopt, name)


def test_late_modules_are_listed_and_found() -> None:
    for name in _siblings.LATE_MODULES:
        assert name in dir(torchopt)
        assert getattr(torchopt, name) is importlib.import_module(f'torchopt.{name}')
    for name, module in _siblings.LATE_FUNCTIONS.items():
        assert name in dir(torchopt)
        assert getattr(torchopt, name) is getattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_late_modules_are_not_imported_with_torchopt() -> None:
    code = 'import sys, torchopt; print(*[name for name in sys.modules if name[:8] == "torchopt"])'
    code += '; print("torch._dynamo" in sys.modules)'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    loaded, dynamo = result.stdout.splitlines()
    assert not {f'torchopt.{name}' for name in _siblings.LATE_MODULES} & {*loaded.split()}
    assert dynamo == 'False'


@pytest.mark.slow
def test_star_import() -> None:
    code = 'from torchopt import *; print(MetaAdam.__name__, stop_gradient.__name__, adam.__name__)'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['MetaAdam', 'stop_gradient', 'adam']


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'MetaNoSuchOptimizer'"):
        torchopt.MetaNoSuchOptimizer  # noqa: B018
