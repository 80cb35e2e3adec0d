"""Fixtures of the process that times one library."""

from __future__ import annotations

import pytest
import torch

from adapters import Adapter, load
from libraries import LIBRARIES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--library', help='name of the library that is timed')
    parser.addoption('--only', default='', help='part of the names of the problems')


@pytest.fixture(scope='session')
def adapter(request: pytest.FixtureRequest) -> Adapter:
    torch.set_num_threads(1)
    name = request.config.getoption('library')
    (library,) = (library for library in LIBRARIES if library.name == name)
    return load(library.adapter, library.options)
