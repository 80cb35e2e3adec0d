"""Hyperparameters out of their ranges, or of wrong types."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.optimizer_cases import COMPANIONS, INVALID_OPTIONS, NUMERIC_OPTIONS
from torchopt.registry import OPTIMIZERS, OptimizerEntry


def name_of(value: Any) -> str:
    return getattr(value, 'name', str(value))


@pytest.mark.parametrize(('entry', 'option', 'value'), INVALID_OPTIONS, ids=name_of)
def test_out_of_range(entry: OptimizerEntry, option: str, value: Any) -> None:
    options = {**COMPANIONS.get(option, {}), option: value}
    with pytest.raises(ValueError, match=rf'^{option}(\[[01]\])? must be .*, got (-|1|nan)'):
        entry.factory(**options)
    params = [torch.ones(1, requires_grad=True)]
    with pytest.raises(ValueError, match=rf'^{option}(\[[01]\])? must be '):
        getattr(torchopt, entry.class_name)(params, **options)


WRONG_TYPES = ['0.1', None, True, 1j, torch.tensor(1), torch.ones(2, dtype=torch.int64)]


@pytest.mark.parametrize('value', WRONG_TYPES, ids=str)
@pytest.mark.parametrize(('entry', 'option'), NUMERIC_OPTIONS, ids=name_of)
def test_wrong_type(entry: OptimizerEntry, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf'^{option}(\[[01]\])? must be '):
        entry.factory(**{**COMPANIONS.get(option, {}), option: value})


@pytest.mark.parametrize('betas', [(0.9,), (0.9, 0.9, 0.9), 0.9, torch.tensor(0.9)], ids=str)
@pytest.mark.parametrize(
    'entry', [e for e, option in NUMERIC_OPTIONS if option == 'betas'], ids=name_of
)
def test_betas_are_a_pair(entry: OptimizerEntry, betas: Any) -> None:
    with pytest.raises(TypeError, match=r'^betas must be a pair of numbers, got'):
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


def test_moment_decay_of_a_tensor_may_be_any() -> None:
    """The range of a tensor stays unchecked: reading it would wait for the device."""
    torchopt.adam(betas=(torch.tensor(2.0), 0.9))
