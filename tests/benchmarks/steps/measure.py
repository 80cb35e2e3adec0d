"""Times the problems in the environment of one library with pytest-benchmark.

Run as ``python -m steps.measure LIBRARY ONLY [arguments of pytest]``. The peers' environments hold
torch, pytest and one library, so none of the test suite's settings and conftest files is read.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

from adapters import Adapter, fingerprint, load
from libraries import LIBRARIES
from steps.problems import PROBLEMS


class Parameters:
    """A plugin with the parameters of the test below."""

    def __init__(self, library: str, only: str) -> None:
        (self._library,) = (each for each in LIBRARIES if each.name == library)
        self._names = [name for name in PROBLEMS if only in name]

    @pytest.fixture
    def adapter(self) -> Adapter:
        torch.set_num_threads(1)
        return load(self._library.adapter, self._library.options)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize('name', self._names)


def test_problem(name: str, adapter: Adapter, benchmark) -> None:
    """Time a problem in float32, after recording in float64 what it computes."""
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


if __name__ == '__main__':
    library, only, *arguments = sys.argv[1:]
    isolated = ['-c', os.devnull, '--rootdir', os.path.dirname(__file__), '--noconftest']
    code = pytest.main([__file__, *isolated, *arguments], plugins=[Parameters(library, only)])
    sys.exit(code)
