"""The page that sets the optimizers beside torch's: its names, arguments and defaults are real."""

from __future__ import annotations

import inspect

import pytest
import torch

import torchopt
import torchopt_meta
from support.optimizer_page import NAMES, OPTIONS, PAGE, assert_same, call_of, calls
from torchopt.registry import OPTIMIZERS, OptimizerEntry

# What the page says that it leaves out.
OURS = frozenset({'maximize', 'moment_requires_grad', 'use_accelerated_op'})
TORCHS = frozenset({'params', 'maximize', 'foreach', 'fused', 'capturable', 'differentiable'})

optimizers = pytest.mark.parametrize('entry', OPTIMIZERS, ids=lambda entry: entry.name)


@optimizers
def test_names_of_an_optimizer(entry: OptimizerEntry) -> None:
    names = NAMES[entry.name]
    assert names.plain == entry.class_names
    assert names.meta == tuple(f'Meta{name}' for name in entry.class_names)
    assert names.torch == ((entry.torch_name,) if entry.torch_name else ())
    for name in names.plain:
        assert getattr(torchopt, name) is getattr(torchopt, entry.class_name)
    for name in names.meta:
        assert getattr(torchopt_meta, name) is getattr(torchopt_meta, f'Meta{entry.class_name}')
    # An optimizer that torch did not have when it was added here may have come to torch since.
    assert hasattr(torch.optim, entry.class_name) <= bool(entry.torch_name)


@optimizers
def test_calls_and_defaults_of_an_optimizer(entry: OptimizerEntry) -> None:
    names, shown = NAMES[entry.name], calls(entry.name)
    assert list(shown) == [
        f'torchopt.{entry.name}',
        *(f'torch.optim.{name}' for name in names.torch),
        *(f'optax.{name}' for name in names.optax),
    ]
    assert_same(shown[f'torchopt.{entry.name}'], call_of(entry.factory, OURS))
    for name in names.torch:
        assert_same(shown[f'torch.optim.{name}'], call_of(getattr(torch.optim, name), TORCHS))


def test_the_page_is_about_this_version() -> None:
    assert f'torch {".".join(torch.__version__.split(".")[:2])} and' in PAGE.read_text()


def test_the_page_has_every_option_and_no_other() -> None:
    ours = [inspect.signature(entry.factory).parameters for entry in OPTIMIZERS]
    torchs = [
        inspect.signature(getattr(torch.optim, name)).parameters
        for names in NAMES.values()
        for name in names.torch
    ]
    assert list(NAMES) == [entry.name for entry in OPTIMIZERS]
    for here, in_torch, _ in OPTIONS.values():
        assert all(any(name in options for options in ours) for name in here)
        in_torch = tuple(name for name in in_torch if '=' not in name)
        assert all(any(name in options for options in torchs) for name in in_torch)


@optimizers
def test_options_of_both_have_the_same_place_and_default(entry: OptimizerEntry) -> None:
    parameters = inspect.signature(entry.factory).parameters.values()
    placed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in NAMES[entry.name].torch:
        ours = calls(entry.name)[f'torchopt.{entry.name}'].defaults
        torchs = calls(entry.name)[f'torch.optim.{name}'].defaults
        assert {option: ours[option] for option in torchs} == torchs
        common = [option for option in placed if option in torchs]
        assert common == list(torchs)[: len(common)] == placed[: len(common)]


def test_which_optimizers_of_torch_can_be_differentiated() -> None:
    known = {name: getattr(torch.optim, name) for names in NAMES.values() for name in names.torch}
    unable = [
        name
        for name, cls in known.items()
        if 'differentiable' not in inspect.signature(cls).parameters
    ]
    assert unable == ['Adafactor', 'Muon']
