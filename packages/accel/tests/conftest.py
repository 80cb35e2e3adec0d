"""Settings and fixtures of accel's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from torchopt_accel import choice
from torchopt_accel import kernels as compiled
from torchopt_accel.platform import C, obstacle

_NO_CUDA = obstacle(torch.device('cuda'))
_CUDA = pytest.param(
    'cuda', marks=[pytest.mark.cuda, pytest.mark.skipif(bool(_NO_CUDA), reason=_NO_CUDA)]
)


def pytest_configure(config: pytest.Config) -> None:
    # On first use torch's forward mode scripts a decomposition, which torch itself deprecates.
    config.addinivalue_line('filterwarnings', r'ignore:`torch\.jit\.script` is:DeprecationWarning')


# Session scope, because Hypothesis draws many examples.
@pytest.fixture(scope='session', autouse=True)
def kernels_take_small_steps() -> Iterator[None]:
    """Let kernels take also the steps for which the composite rule is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, 'MANY_ELEMENTS', 0)
        yield


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the rules that are launched; backward kernels have the suffix ``_backward``."""
    seen: list[str] = []
    launch = compiled.launch

    def recorded(rule: str, *rest: Any, backward: bool = False, **options: Any) -> None:
        seen.append(rule + ('_backward' if backward else ''))
        launch(rule, *rest, backward=backward, **options)

    launch_in_place = compiled.launch_in_place

    def recorded_in_place(rule: str, *rest: Any) -> None:
        seen.append(rule)
        launch_in_place(rule, *rest)

    monkeypatch.setattr(compiled, 'launch', recorded)
    monkeypatch.setattr(compiled, 'launch_in_place', recorded_in_place)

    def counted(name: str, suffix: str) -> None:
        run = getattr(compiled, name)

        def at_once(rule: Any, *rest: Any) -> Any:
            results = run(rule, *rest)
            if results is not None:
                seen.append(list(compiled.RULES)[rule[0]] + suffix)
            return results

        monkeypatch.setattr(compiled, name, at_once)

    counted('forward_at_once', '')
    counted('backward_at_once', '_backward')
    return seen


# Session scope lets Hypothesis draw many examples on one device.
@pytest.fixture(scope='session', params=['cpu', _CUDA])
def device(request: pytest.FixtureRequest) -> str:
    """Run a test on every kind of device."""
    name: str = request.param
    return name


@pytest.fixture(params=[*C.supported_isas(), _CUDA])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with the kernels of every instruction set, and of CUDA; yield their device."""
    if request.param == 'cuda':
        yield 'cuda'
        return
    before = C.current_isa()
    C.use_isa(request.param)
    yield 'cpu'
    C.use_isa(before)
