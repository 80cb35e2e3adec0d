"""Names under which users of TorchOpt 0.7.3 import, and how ``torchopt`` helps to find a name."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import typing
from types import ModuleType

import optree
import pytest
import torch

import torchopt
import torchopt_meta
import torchopt_utils
from torchopt import _aliases
from torchopt.registry import OPTIMIZERS

FACTORIES = tuple(entry.name for entry in OPTIMIZERS)
CLASSES = tuple(name for entry in OPTIMIZERS for name in entry.class_names)
METAS = tuple(f'Meta{name}' for name in CLASSES)
UTILITIES = (
    *('extract_state_dict', 'recover_state_dict', 'stop_gradient'),
    *('module_clone', 'module_detach_'),
)
# What they import, and where this library keeps it.
SAME = {
    'accelerated_op': (torchopt, ()),
    'alias': (torchopt, FACTORIES),
    'base': (
        torchopt.base,
        (
            *('ChainedGradientTransformation', 'EmptyState', 'GradientTransformation'),
            *('UninitializedState', 'identity'),
        ),
    ),
    'clip': (torchopt, ('clip_grad_norm',)),
    'combine': (torchopt, ('chain',)),
    'hook': (torchopt.hook, ('nan_to_num_hook', 'register_hook', 'zero_nan_hook')),
    'optim': (torchopt, ('FuncOptimizer', 'Optimizer', *CLASSES)),
    'optim.base': (torchopt, ('Optimizer',)),
    'optim.func': (torchopt, ('FuncOptimizer',)),
    'optim.func.base': (torchopt, ('FuncOptimizer',)),
    'optim.meta': (torchopt_meta, ('MetaOptimizer', *METAS)),
    'optim.meta.base': (torchopt_meta, ('MetaOptimizer',)),
    'schedule': (torchopt, ('exponential_decay', 'linear_schedule', 'polynomial_schedule')),
    'transform': (torchopt.transform, ('nan_to_num', 'scale', 'scale_by_adam', 'trace')),
    'typing': (
        torchopt.base,
        (
            *('ChainedGradientTransformation', 'EmptyState', 'GradientTransformation'),
            'UninitializedState',
        ),
    ),
    'update': (torchopt, ('apply_updates',)),
    'utils': (torchopt_utils, UTILITIES),
    'version': (torchopt, ('__version__',)),
    'visual': (torchopt_utils, ('make_dot',)),
}
ANNOTATIONS = (
    *('Device', 'ListOfTensors', 'ModuleTensorContainers', 'Numeric', 'OptState'),
    *('OptionalTensor', 'OptionalTensorTree', 'Params', 'PyTree', 'Scalar', 'ScalarOrSchedule'),
    *('Schedule', 'SequenceOfTensors', 'Size', 'Tensor', 'TensorContainer', 'TensorOrTensors'),
    *('TensorTree', 'TupleOfTensors', 'Updates'),
)


@pytest.mark.parametrize('module', SAME)
def test_names_are_the_objects_themselves(module: str) -> None:
    home, names = SAME[module]
    found = importlib.import_module(f'torchopt.{module}')
    for name in names:
        assert getattr(found, name) is getattr(home, name)
    held: object = torchopt
    for part in module.split('.'):
        held = getattr(held, part)
    assert held is found, 'an attribute without an import of its own'


def test_the_accelerated_operator_is_found() -> None:
    assert torchopt.accelerated_op.is_available is torchopt.accelerated_op_available


@pytest.mark.parametrize('module', _aliases.MODULES)
def test_a_module_without_a_file_behaves_as_one(module: str) -> None:
    found = importlib.import_module(module)
    assert isinstance(found, ModuleType)
    assert found.__doc__
    assert importlib.util.find_spec(module) is not None
    assert sorted(dir(found)) == sorted(found.__all__) == sorted(_aliases.MODULES[module])
    names: dict[str, object] = {}
    exec(f'from {module} import *', names)
    assert set(found.__all__) <= names.keys()
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        found.nothing  # noqa: B018


def test_every_module_without_a_file_is_in_the_list() -> None:
    assert {name.removeprefix('torchopt.') for name in _aliases.MODULES} <= SAME.keys()


@pytest.mark.parametrize('name', ANNOTATIONS)
def test_annotations_exist_and_can_be_combined(name: str) -> None:
    annotation = getattr(torchopt.typing, name)
    assert name in torchopt.typing.__all__
    typing.Optional[annotation]  # noqa: UP045 - what a module may do with it at run time


def test_types_are_a_closed_list() -> None:
    for name in torchopt.typing.__all__:
        getattr(torchopt.typing, name)
    with pytest.raises(AttributeError, match=r"'torchopt\.typing' has no attribute 'Numerik'"):
        torchopt.typing.Numerik  # noqa: B018


@pytest.mark.parametrize('name', optree.__all__)
def test_pytree_has_all_of_optree(name: str) -> None:
    assert hasattr(torchopt.pytree, name)


def test_functions_of_pytree_that_are_our_own_equal_those_of_optree() -> None:
    tree = {'b': [1, None], 'a': (2,)}
    for none_is_leaf in (False, True):
        leaves, structure = torchopt.pytree.tree_flatten(tree, none_is_leaf=none_is_leaf)
        assert (leaves, structure) == optree.tree_flatten(tree, none_is_leaf=none_is_leaf)
        assert torchopt.pytree.tree_leaves(tree, none_is_leaf=none_is_leaf) == leaves
        assert torchopt.pytree.tree_unflatten(structure, leaves) == tree


def test_a_program_of_a_dependent_runs() -> None:
    """As it is written for TorchOpt, with annotations that are evaluated."""
    from torchopt.combine import chain

    from torchopt.pytree import tree_flatten_with_path, tree_iter, tree_map
    from torchopt.typing import GradientTransformation, Numeric, OptState

    def optimizer(rate: Numeric) -> GradientTransformation:
        return chain(torchopt.clip_grad_norm(1.0), torchopt.alias.adam(rate))

    params = {'w': torch.ones(2, requires_grad=True)}
    state: OptState = optimizer(0.1).init(params)
    (grad,) = torch.autograd.grad(params['w'].sum(), params['w'], create_graph=True)
    updates, state = optimizer(0.1).update({'w': grad}, state, params=params, inplace=False)
    names = ['.'.join(map(str, path)) for path in tree_flatten_with_path(state)[0]]
    assert names == ['1.0.w', '1.1.w', '1.2']
    assert sum(1 for _ in tree_iter(state)) == len(names)
    doubled = tree_map(lambda u: 2 * u, updates)
    torch.testing.assert_close(doubled['w'], torch.full((2,), -0.2))


@pytest.mark.parametrize(
    ('misspelt', 'meant'),
    [
        ('MetaAdm', 'MetaAdam'),
        ('metaadam', 'MetaAdam'),
        ('adm', 'adam'),
        ('SDG', 'SGD'),
        ('exract_state_dict', 'extract_state_dict'),
        ('apply_update', 'apply_updates'),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(misspelt: str, meant: str) -> None:
    message = f"^module 'torchopt' has no attribute '{misspelt}', did you mean '{meant}'\\?$"
    with pytest.raises(AttributeError, match=message):
        getattr(torchopt, misspelt)


@pytest.mark.parametrize('name', ['nothing_like_it', '__wrapped__', '__file'])
def test_a_name_that_resembles_none_gets_none(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'torchopt' has no attribute '{name}'$"):
        getattr(torchopt, name)


def test_completion_shows_what_users_call() -> None:
    for module in _aliases.MODULES:
        importlib.import_module(module)
    shown = {name for name in dir(torchopt) if isinstance(getattr(torchopt, name), ModuleType)}
    assert shown == {
        *('base', 'clip', 'distributed', 'hook', 'optim', 'pytree', 'registry', 'schedule'),
        *('transform', 'typing', 'unrolling'),
    }
    assert {*FACTORIES, *CLASSES, *METAS, *UTILITIES, 'make_dot', 'unroll'} <= {*dir(torchopt)}


@pytest.mark.slow
def test_other_names_import_no_sibling_before_they_are_used() -> None:
    code = f"""
import json, sys
import torchopt
{chr(10).join(f'import {module}' for module in _aliases.MODULES)}
before = [name for name in sys.modules if name.startswith('torchopt_')]
torchopt.optim.meta.MetaAdam, torchopt.visual.make_dot
after = [name for name in sys.modules if name in ('torchopt_meta', 'torchopt_utils')]
print(json.dumps([before, sorted(after)]))
"""
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == [[], ['torchopt_meta', 'torchopt_utils']]
