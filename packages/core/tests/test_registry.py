"""The registry, the samples that tests take from it, and the lookup of fused kernels."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

import torchopt
from support import optimizer_cases
from support.optimizer_cases import (
    CASES,
    COMMON,
    FUSED_CASES,
    FUSED_MAIN_CASES,
    OptimizerCase,
    signature_of,
    torch_class,
)
from support.trees import sample_gradients, sample_params, state_fields
from torchopt import pytree
from torchopt.registry import OPTIMIZERS, OptimizerEntry


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_factory_is_the_public_one(entry: OptimizerEntry) -> None:
    assert getattr(torchopt, entry.name) is entry.factory
    assert entry.factory.__doc__


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_every_option_has_a_case(entry: OptimizerEntry) -> None:
    covered = {name for case in CASES if case.entry is entry for name in case.options}
    assert covered == set(signature_of(entry)) >= COMMON


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_torch_has_what_the_registry_says(entry: OptimizerEntry) -> None:
    """And torch has no class of this name that the registry does not mention."""
    assert (torch_class(entry) is not None) == (entry.torch_name is not None)
    assert not hasattr(torch.optim, entry.class_name) or entry.torch_name


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_a_rule_without_meta_gradient_says_so(entry: OptimizerEntry) -> None:
    assert entry.smooth or 'meta-gradient' in (entry.factory.__doc__ or '')


def looks(tree: Any) -> list[Any]:
    """Shape and dtype of every tensor; None where a rule keeps none for the parameter."""
    leaves = pytree.tree_leaves(tree, is_leaf=lambda x: x == (), none_is_leaf=True)
    return [(x.shape, x.dtype) if isinstance(x, torch.Tensor) else None for x in leaves]


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_floats_of_a_state_look_like_parameters_or_are_registered(entry: OptimizerEntry) -> None:
    params = sample_params()
    expected = looks(params)
    unlike = set()
    for case in CASES:
        if case.entry is not entry:
            continue
        optimizer = case.make()
        _, state = optimizer.update(
            sample_gradients(params, 0), optimizer.init(params), params=params, inplace=False
        )
        for name, tree in state_fields(state):
            leaves = pytree.tree_leaves(tree)
            if any(leaf.is_floating_point() for leaf in leaves):
                found = looks(tree)
                like = len(found) == len(expected) and all(
                    one is None or one == other for one, other in zip(found, expected)
                )
                unlike |= set() if like else {name}
    assert unlike == entry.unlike_params


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_an_elementwise_rule_has_a_diagonal_jacobian(entry: OptimizerEntry) -> None:
    params = torch.tensor([[0.5, -0.3], [0.2, 0.9]], dtype=torch.float64)
    optimizer = entry.factory()

    def step(gradients: torch.Tensor) -> torch.Tensor:
        state = optimizer.init(params)
        return optimizer.update(gradients, state, params=params, inplace=False)[0].flatten()

    jacobian = torch.func.jacrev(step)(params.sin()).reshape(4, 4)
    assert torch.equal(jacobian, jacobian.diag().diag()) == entry.elementwise


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_samples_differ_from_defaults(entry: OptimizerEntry) -> None:
    for name, parameter in signature_of(entry).items():
        assert optimizer_cases.sample_of(entry, name) != parameter.default


def test_an_option_without_sample_says_where_to_add_it() -> None:
    with pytest.raises(KeyError, match=r'add one to SAMPLES in .*optimizer_cases.py'):
        optimizer_cases.sample_of(OPTIMIZERS[0], 'temperature')


def test_a_new_optimizer_gets_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    def invented(lr: float = 1e-4, temperature: float = 1.0) -> Any:
        return torchopt.sgd(lr)

    entry = OptimizerEntry(invented, 'Invented')
    with pytest.raises(KeyError, match="'temperature' has no sample value"):
        optimizer_cases._cases_of(entry, ['lr', 'temperature'])
    monkeypatch.setitem(optimizer_cases.SAMPLES, 'temperature', 2.0)
    cases = optimizer_cases._cases_of(entry, ['lr', 'temperature'])
    assert [str(case) for case in cases] == [
        'invented-defaults',
        'invented-lr',
        'invented-temperature',
        'invented-all',
    ]
    assert entry.class_names == ('Invented',)
    assert not entry.fused
    assert OptimizerEntry(invented, 'Invented', 'invented').class_names == ('Invented', 'invented')


class TestAccelerated:
    @pytest.fixture
    def absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, 'torchopt_accel', None)
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            'find_spec',
            lambda name, *rest: None if name == 'torchopt_accel' else find_spec(name, *rest),
        )

    @pytest.fixture
    def accel(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        module = ModuleType('torchopt_accel')
        module.__spec__ = importlib.machinery.ModuleSpec('torchopt_accel', loader=None)
        module.available = lambda devices: devices in (None, 'cpu')
        module.calls = []

        def fuse(name: str, composite: Any, arguments: dict[str, Any]) -> Any:
            module.calls.append((name, composite, arguments))
            return torchopt.base.identity()

        module.fuse = fuse
        monkeypatch.setitem(sys.modules, 'torchopt_accel', module)
        return module

    @pytest.mark.usefixtures('absent')
    def test_is_not_available_without_the_package(self) -> None:
        assert torchopt.accelerated_op_available() is False
        assert torchopt.accelerated_op_available('cpu') is False
        assert torchopt.accelerated_op_available([torch.device('cpu')]) is False

    @pytest.mark.usefixtures('absent')
    @pytest.mark.parametrize('case', FUSED_MAIN_CASES, ids=str)
    def test_error_names_the_package(self, case: OptimizerCase) -> None:
        with pytest.raises(ModuleNotFoundError, match='pip install torchopt-accel'):
            case.make(use_accelerated_op=True)
        with pytest.raises(ModuleNotFoundError, match='pip install torchopt-accel'):
            case.make_class([torch.ones(1)], use_accelerated_op=True)
        case.make(use_accelerated_op=False)

    def test_package_answers_for_the_devices(self, accel: ModuleType) -> None:
        assert torchopt.accelerated_op_available()
        assert torchopt.accelerated_op_available('cpu')
        assert not torchopt.accelerated_op_available('cuda')

    @pytest.mark.parametrize('case', FUSED_CASES, ids=str)
    def test_package_gets_every_argument_by_name(
        self, case: OptimizerCase, accel: ModuleType
    ) -> None:
        assert case.make(use_accelerated_op=True) == torchopt.base.identity()
        [(name, composite, arguments)] = accel.calls
        assert name == case.entry.name
        assert isinstance(composite, torchopt.GradientTransformation)
        assert arguments == {option: case.value(option) for option in signature_of(case.entry)}

    def test_package_that_cannot_be_imported_says_why(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(name: str) -> Any:
            raise ModuleNotFoundError("No module named 'other'", name='other')

        monkeypatch.setattr(importlib, 'import_module', broken)
        with pytest.raises(ModuleNotFoundError, match="'other'"):
            torchopt.adam(use_accelerated_op=True)
