"""Dynamo's guards are asked where a pass begins, and wherever something may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import DTYPE, assert_equal
from torchopt.unrolling import Recomputed, Snapshots, Stored, Strategy
from torchopt.unrolling.steps.compilation import RenewableCompilation

pytestmark = pytest.mark.compile


class Holder:
    def __init__(self) -> None:
        self.log: list[int] = []
        self.last: torch.Tensor | None = None
        self.count = 0
        self.scale = 1.0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every call that goes through Dynamo's guards."""
    calls = []
    call = RenewableCompilation.__call__

    def counted(self: RenewableCompilation, *args: Any) -> Any:
        calls.append(args)
        return call(self, *args)

    monkeypatch.setattr(RenewableCompilation, '__call__', counted)
    return calls


def ends(step: Any, backward: Strategy, length: int = 5, **options: Any) -> list[torch.Tensor]:
    """Return the end of a loop, what it recorded, and the gradient of both."""
    w = torch.linspace(0.1, 0.4, 3, dtype=DTYPE, requires_grad=True)
    k = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
    frozen = torch.tensor(0.5, dtype=DTYPE)
    carry, ys = torchopt.unroll(
        step, {'w': w, 'frozen': frozen}, consts=k, length=length, backward=backward, **options
    )
    outer = carry['w'].sum() + ys.sum()
    return [carry['w'], ys, *torch.autograd.grad(outer, [w, k])]


def test_guards_are_asked_where_a_pass_begins(guarded: list[Any]) -> None:
    def step(carry: Any, x: None, k: torch.Tensor) -> Any:
        w = (carry['w'] * k).sin()
        return {**carry, 'w': w}, w.sum()

    expected = ends(step, Stored(), 6)
    # Two calls in a row show that one step leads to the next; later loops know that.
    for asked in (4, 2):
        guarded.clear()
        assert_equal(ends(step, Recomputed(compile='eager'), 6), expected)
        assert len(guarded) == asked
    guarded.clear()
    assert_equal(ends(step, Snapshots(2, compile='eager'), 6), expected)
    assert len(guarded) == 3  # and where the backward pass runs steps again


def test_guards_are_asked_where_other_code_runs(guarded: list[Any]) -> None:
    options = Holder()

    def step(carry: Any, x: None, k: torch.Tensor) -> Any:
        w = (carry['w'] * k * options.scale).sin()
        return {**carry, 'w': w}, w.sum()

    def double(taken: int, carry: Any, y: Any) -> None:
        options.scale = 2.0 if taken == 3 else 1.0

    expected = ends(step, Stored(), progress=double)[:2]
    guarded.clear()
    assert_equal(ends(step, Recomputed(compile='eager'), progress=double)[:2], expected)
    assert len(guarded) == 10


def test_arguments_and_constants_that_a_step_returns() -> None:
    offset = torch.tensor(0.1, dtype=DTYPE)

    def step(carry: Any, x: None, k: torch.Tensor) -> Any:
        w = (carry['w'] * k + offset * carry['frozen']).sin()
        return {'w': w, 'frozen': carry['frozen']}, w

    assert_equal(ends(step, Recomputed(compile='eager')), ends(step, Stored()))


def test_what_a_step_does_beside_its_results_happens_every_time() -> None:
    seen = Holder()

    def logging(carry: Any, x: None, k: torch.Tensor) -> Any:
        seen.log.append(1)
        w = (carry['w'] * k).sin()
        return {**carry, 'w': w}, w.sum()

    def remembering(carry: Any, x: None, k: torch.Tensor) -> Any:
        w = (carry['w'] * k).sin()
        seen.last = w * 2
        return {**carry, 'w': w}, w.sum()

    def counting(carry: Any, x: None, k: torch.Tensor) -> Any:
        seen.count += 1
        w = (carry['w'] * k).sin()
        return {**carry, 'w': w}, w.sum()

    with torch.no_grad():
        for step in (logging, remembering, counting):
            w, frozen = torch.ones(2, dtype=DTYPE), torch.ones(1, dtype=DTYPE)
            k = torch.tensor(0.7, dtype=DTYPE)
            carry, _ = torchopt.unroll(
                step,
                {'w': w, 'frozen': frozen},
                consts=k,
                length=5,
                backward=Recomputed(compile='eager'),
            )
    assert (len(seen.log), seen.count) == (5, 5)
    assert_equal([seen.last], [carry['w'] * 2])
