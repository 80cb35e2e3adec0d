"""The timing of the problems in the environment of one library, by pytest-benchmark."""

from __future__ import annotations

import pytest
import torch

from adapters import Adapter, fingerprint
from steps.problems import PROBLEMS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the problems that ``--only`` names."""
    only = metafunc.config.getoption('only')
    metafunc.parametrize('name', [name for name in PROBLEMS if only in name])


def test_problem(name: str, adapter: Adapter, benchmark) -> None:
    """Time a problem in float32, after a look in float64 at what it computes."""
    make = PROBLEMS[name]
    try:
        fingerprints = {
            eps_root: fingerprint(make(adapter, torch.float64, eps_root)())
            for eps_root in adapter.eps_roots
        }
    except NotImplementedError:
        pytest.skip('not supported')
    benchmark.extra_info.update(fingerprints=fingerprints, eps_root=adapter.eps_roots[0])
    benchmark(make(adapter, torch.float32, adapter.eps_roots[0]))
