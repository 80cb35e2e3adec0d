"""The registry, the samples that tests take from it, and the lookup of fused kernels."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

import torchopt
from support import optimizer_cases
from support.optimizer_cases import CASES, MAIN_CASES, OptimizerCase, signature_of
from torchopt.registry import OPTIMIZERS, OptimizerEntry


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_factory_is_the_public_one(entry: OptimizerEntry) -> None:
    assert getattr(torchopt, entry.name) is entry.factory
    assert entry.factory.__doc__


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_every_option_has_a_case(entry: OptimizerEntry) -> None:
    covered = {name for case in CASES if case.entry is entry for name in case.options}
    assert covered == set(signature_of(entry))
    assert 'use_accelerated_op' in inspect.signature(entry.factory).parameters


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)
def test_samples_differ_from_defaults(entry: OptimizerEntry) -> None:
    for name, parameter in signature_of(entry).items():
        assert optimizer_cases.sample_of(name) != parameter.default


def test_an_option_without_sample_says_where_to_add_it() -> None:
    with pytest.raises(KeyError, match=r'add one to SAMPLES in .*optimizer_cases.py'):
        optimizer_cases.sample_of('temperature')


def test_a_new_optimizer_gets_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    def lion(lr: float = 1e-4, temperature: float = 1.0) -> Any:
        return torchopt.sgd(lr)

    with pytest.raises(KeyError, match="'temperature' has no sample value"):
        optimizer_cases._cases_of(OptimizerEntry(lion, 'Lion', 'Lion'), ['lr', 'temperature'])
    monkeypatch.setitem(optimizer_cases.SAMPLES, 'temperature', 2.0)
    cases = optimizer_cases._cases_of(OptimizerEntry(lion, 'Lion', 'Lion'), ['lr', 'temperature'])
    assert [str(case) for case in cases] == [
        'lion-defaults',
        'lion-lr',
        'lion-temperature',
        'lion-all',
    ]


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
    @pytest.mark.parametrize('case', MAIN_CASES, ids=str)
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

    @pytest.mark.parametrize('case', CASES, ids=str)
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
