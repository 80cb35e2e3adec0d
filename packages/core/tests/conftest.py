"""Settings of core's tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # torch's forward mode scripts a decomposition on first use, which torch itself deprecates.
    config.addinivalue_line('filterwarnings', r'ignore:`torch\.jit\.script` is:DeprecationWarning')
