"""Settings and fixtures of accel's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import torchopt_accel.ops
from torchopt_accel._extension import C


def pytest_configure(config: pytest.Config) -> None:
    # torch's forward mode scripts a decomposition on first use, which torch itself deprecates.
    config.addinivalue_line('filterwarnings', r'ignore:`torch\.jit\.script` is:DeprecationWarning')


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules launched so far, with ``_backward`` after those of the derivative."""
    seen: list[str] = []
    launch = torchopt_accel.ops.launch

    def recorded(rule: str, layout: Any, *, backward: bool = False, **rest: Any) -> None:
        seen.append(rule + ('_backward' if backward else ''))
        launch(rule, layout, backward=backward, **rest)

    monkeypatch.setattr(torchopt_accel.ops, 'launch', recorded)
    return seen


@pytest.fixture(params=C.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test with the kernels of every instruction set that this machine has."""
    before = C.current_isa()
    C.use_isa(request.param)
    yield request.param
    C.use_isa(before)
