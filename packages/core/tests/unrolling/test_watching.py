"""Stop conditions and reports of progress."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchopt
from support.unrolls import assert_equal, problem
from torchopt.unrolling import ForwardMode, Recomputed, Snapshots, Stored, Strategy, Truncated

MODES = [
    Stored(),
    Recomputed(),
    Snapshots(2),
    Truncated(2),
    Truncated(2, Snapshots(1)),
    ForwardMode(),
]
every_mode = pytest.mark.parametrize('backward', MODES, ids=str)


def halve(c: torch.Tensor, x: Any, k: Any) -> Any:
    return c * k, c


@every_mode
def test_the_step_whose_carry_satisfies_the_condition_is_not_taken(backward: Strategy) -> None:
    k = torch.tensor(0.5, requires_grad=True)
    end, path = torchopt.unroll(
        halve, torch.tensor(1.0), consts=k, until=lambda c: c < 0.2, backward=backward
    )
    assert end == 0.125
    assert path.tolist() == [1.0, 0.5, 0.25]
    (gradient,) = torch.autograd.grad(end, k)
    # There are three factors of 0.5; with truncation, the first is a constant.
    assert gradient == (2 if isinstance(backward, Truncated) else 3) * 0.25


@every_mode
def test_length_and_xs_are_bounds_beside_a_condition(backward: Strategy) -> None:
    def never(c: Any) -> torch.Tensor:
        return torch.tensor(False)

    k = torch.tensor(0.5, requires_grad=True)
    for bound in ({'length': 2}, {'xs': torch.ones(2)}):
        end, _ = torchopt.unroll(
            halve, torch.tensor(1.0), consts=k, until=never, backward=backward, **bound
        )
        assert end == 0.25


@every_mode
def test_a_condition_with_many_answers(backward: Strategy) -> None:
    with pytest.raises(RuntimeError, match='until must give one bool'):
        torchopt.unroll(
            halve, torch.ones(3), consts=0.5, until=lambda c: c < 0.2, backward=backward
        )


@every_mode
@pytest.mark.parametrize('stops', [False, True])
def test_progress_is_reported_once_per_step(backward: Strategy, stops: bool) -> None:
    example = problem(length=5)
    if isinstance(backward, ForwardMode):
        backward = ForwardMode(limit=200)
    options: dict[str, Any] = {'until': lambda carry: carry[2] == 4} if stops else {}
    seen: list[tuple[int, int, float]] = []

    def watch(taken: int, carry: Any, y: Any) -> None:
        seen.append((taken, carry[2], y['loss'].item()))

    watched = example.gradients(backward, progress=watch, **options)
    steps = 4 if stops else 5
    _, ys = example.run(backward, **options)
    losses = ys['loss'].tolist()
    assert seen == [(n, n, losses[n - 1]) for n in range(1, steps + 1)]
    assert_equal(watched, example.gradients(backward, **options))


@every_mode
def test_an_interrupt_from_progress_comes_through(backward: Strategy) -> None:
    def interrupt(taken: int, carry: Any, y: Any) -> None:
        if taken == 3:
            raise KeyboardInterrupt

    k = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(KeyboardInterrupt):
        torchopt.unroll(
            halve, torch.ones(1), consts=k, length=5, backward=backward, progress=interrupt
        )


@every_mode
def test_an_unbounded_unroll_that_stops_at_once(backward: Strategy) -> None:
    """It has neither ``length`` nor ``xs``, and takes no step."""
    end, ys = torchopt.unroll(
        halve, torch.ones(1), consts=0.5, until=lambda c: True, backward=backward
    )
    assert end == 1 and ys is None
