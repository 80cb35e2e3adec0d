"""Hyperparameters out of their ranges, or of wrong types."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import (
    CASES,
    COMPANIONS,
    INVALID_OPTIONS,
    NUMERIC_OPTIONS,
    OptimizerCase,
)
from torchopt.registry import OPTIMIZERS, OptimizerEntry

PLAIN = [case for case in CASES if case.label == 'defaults']


def name_of(value: Any) -> str:
    return getattr(value, 'name', str(value))


@pytest.mark.parametrize(('entry', 'option', 'value'), INVALID_OPTIONS, ids=name_of)
def test_out_of_range(entry: OptimizerEntry, option: str, value: Any) -> None:
    options = {**COMPANIONS.get(option, {}), option: value}
    with pytest.raises(ValueError, match=rf'^{option}(\[\d\])? must be .*, got (-|\d|nan)'):
        entry.factory(**options)
    params = [torch.ones(1, requires_grad=True)]
    with pytest.raises(ValueError, match=rf'^{option}(\[\d\])? must be '):
        getattr(torchopt, entry.class_name)(params, **options)


WRONG_TYPES = ['0.1', None, True, 1j, torch.tensor(1), torch.ones(2, dtype=torch.int64)]


@pytest.mark.parametrize('value', WRONG_TYPES, ids=str)
@pytest.mark.parametrize(('entry', 'option'), NUMERIC_OPTIONS, ids=name_of)
def test_wrong_type(entry: OptimizerEntry, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf'^{option}(\[\d\])? must be '):
        entry.factory(**{**COMPANIONS.get(option, {}), option: value})


@pytest.mark.parametrize('betas', [(0.9,), (0.9,) * 4, 0.9, torch.tensor(0.9)], ids=str)
@pytest.mark.parametrize(
    'entry', [e for e, option in NUMERIC_OPTIONS if option == 'betas'], ids=name_of
)
def test_the_number_of_betas(entry: OptimizerEntry, betas: Any) -> None:
    with pytest.raises(TypeError, match=r'^betas must be (a pair of|3) numbers, got'):
        entry.factory(betas=betas)


@pytest.mark.parametrize('entry', OPTIMIZERS, ids=name_of)
def test_a_tree_of_rates_has_numbers_and_tensors_at_its_leaves(entry: OptimizerEntry) -> None:
    with pytest.raises(TypeError, match=r"^lr\['w'\] must be a number or a .* tensor, got str"):
        entry.factory(lr={'w': 'fast'})
    with pytest.raises(ValueError, match=r"^lr\['w'\] must be at least 0, got -0.1"):
        entry.factory(lr={'w': -0.1})


@pytest.mark.parametrize('options', [{}, {'momentum': 0.9, 'dampening': 0.1}], ids=str)
def test_nesterov_needs_momentum_and_no_dampening(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match='nesterov needs a momentum and zero dampening'):
        torchopt.sgd(nesterov=True, **options)


def test_the_range_of_a_tensor_is_not_checked() -> None:
    """Reading the value of a tensor would wait for the device."""
    torchopt.adam(betas=(torch.tensor(2.0), 0.9))


@pytest.mark.parametrize('case', [case for case in PLAIN if case.has('eps')], ids=str)
def test_an_eps_that_underflows_is_refused(case: OptimizerCase) -> None:
    optimizer = case.make(**case.eps(1e-50))
    optimizer.init({'w': torch.ones(2, 2, dtype=torch.float64)})
    message = r'^eps(=1e-50|\[0\]\*\*2=1e-100) is 0 in torch.float32'
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=message):
            optimizer.init({'w': torch.ones(2, 2, dtype=dtype)})


def test_radam_takes_a_float32_decay_rate_for_float64_parameters() -> None:
    """``1 - beta2`` in float32 has half of the digits of ``beta2``."""
    params = [torch.ones(3, dtype=torch.float64)]
    rates = torch.tensor(0.9), torch.tensor(0.999)
    results = []
    for betas in (rates, tuple(rate.double() for rate in rates)):
        optimizer = torchopt.radam(0.1, betas=betas)
        state = optimizer.init(params)
        for step in range(8):
            gradients = [torch.full((3,), 1.0 + step, dtype=torch.float64)]
            updates, state = optimizer.update(gradients, state, inplace=False)
        results.append(updates)
    torch.testing.assert_close(*results, rtol=1e-7, atol=0)


def test_a_misspelt_hyperparameter_gets_a_suggestion() -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="no hyperparameter 'weight_decy', did you mean 'weight_d"):
        torchopt.Adam([{'params': [weight], 'weight_decy': 0.1}])
