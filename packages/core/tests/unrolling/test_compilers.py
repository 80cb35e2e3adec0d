"""Which compiler runs behind ``compile=True``, and what it says."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt.unrolling import Recomputed, Stored, Strategy
from torchopt.unrolling.steps import announcement, automatic, compilation


@pytest.fixture
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def gradients(backward: Strategy) -> list[torch.Tensor]:
    """Learn a filter through steps on four images."""
    filters = torch.linspace(-1, 1, 54, dtype=DTYPE).view(2, 3, 3, 3).requires_grad_()
    images = torch.linspace(0, 1, 4 * 2 * 3 * 25, dtype=DTYPE).sin().view(4, 2, 3, 5, 5)

    def loss(filters: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, filters, padding=1).tanh().square().sum()

    def step(filters: torch.Tensor, x: None, images: torch.Tensor) -> Any:
        each = torch.vmap(torch.func.grad(loss), (None, 0))(filters, images)
        return filters - 0.01 * each.mean(0), None

    end, _ = torchopt.unroll(step, filters, consts=images, length=2, backward=backward)
    return list(torch.autograd.grad(end.square().sum(), filters))


@pytest.mark.compile
@pytest.mark.usefixtures('fresh')
def test_large_convolutions_are_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(Stored())
    ran: list[str] = []

    def named(name: str) -> Any:
        def compile(module: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
            ran.append(name)
            counted.append(automatic.multiplications(module))
            return module

        return compile

    counted: list[int] = []
    monkeypatch.setattr(automatic, 'compiler_named', named)
    assert_equal(gradients(Recomputed(compile=True)), expected)
    assert ran == ['inductor', 'inductor']
    assert counted == [54 * 2 * 25] * 2
    monkeypatch.setattr(automatic, '_MOST_MULTIPLICATIONS', 54 * 2 * 25 - 1)
    torch.compiler.reset()
    assert_equal(gradients(Recomputed(compile=True)), expected)
    assert ran[2:] == ['aot_eager', 'aot_eager']


@pytest.mark.compile
@pytest.mark.usefixtures('fresh')
def test_a_torch_that_does_not_name_its_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, 'compiler_named', lambda name: None)
    assert_equal(gradients(Recomputed(compile='eager')), gradients(Stored()))


def test_a_long_compilation_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'torchopt')
    with announcement.announced('a step'):
        pass
    assert [record.levelname for record in caplog.records] == ['INFO', 'INFO']
    caplog.clear()
    monkeypatch.setattr(announcement, '_PATIENCE', 0.01)
    with announcement.announced('a step'):
        time.sleep(0.1)
    assert [record.levelname for record in caplog.records] == ['INFO', 'WARNING', 'INFO']
    assert 'has been compiling a step' in caplog.records[1].getMessage()
