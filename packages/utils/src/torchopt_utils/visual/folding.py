"""Which steps of long unrolls, and of many runs, are drawn as one box."""

from __future__ import annotations

from dataclasses import dataclass

from torchopt_utils.visual.steps import InnerStep

_RUNS = 2
"""So many runs, such as the tasks of a meta-batch, are drawn side by side."""


@dataclass(frozen=True)
class Fold:
    """Steps that are drawn as one box.

    Attributes:
        steps: Number of steps.
        runs: Number of runs that they are all the steps of; 0: they are the middle of one run.
        by: What took them.
        is_whole_run: Whether no other step of the run is drawn.
    """

    steps: int
    runs: int
    by: str
    is_whole_run: bool = False


def folds(steps: list[InnerStep], most: int | None) -> dict[int, Fold]:
    """Return the box of every step that is not drawn by itself.

    Args:
        steps: All steps.
        most: Number of steps that are drawn of a run; None: all, of all runs.
    """
    found: dict[int, Fold] = {}
    if most is None:
        return found
    runs = _runs(steps)
    shown = _RUNS if len(runs) > _RUNS + 1 else len(runs)
    for run in runs[:shown]:
        head, tail = run[: (most + 1) // 2], run[len(run) - most // 2 :]
        middle = run[len(head) : len(run) - len(tail)]
        if len(middle) > 1 or not most:
            fold = Fold(len(middle), 0, steps[run[0]].by, is_whole_run=not most)
            found.update(dict.fromkeys(middle, fold))
    rest = [position for run in runs[shown:] for position in run]
    if rest:
        fold = Fold(len(rest), len(runs) - shown, steps[rest[0]].by)
        found.update(dict.fromkeys(rest, fold))
    return found


def run_numbers(steps: list[InnerStep]) -> list[int]:
    """Return the number of the run that each step belongs to, from 0."""
    numbers = [0] * len(steps)
    for number, run in enumerate(_runs(steps)):
        for position in run:
            numbers[position] = number
    return numbers


def _runs(steps: list[InnerStep]) -> list[list[int]]:
    """Divide steps into runs: a step goes on with the run whose last step it follows."""
    runs: list[list[int]] = []
    run_of: dict[int, list[int]] = {}
    for position, step in enumerate(steps):
        run = run_of.get(-1 if step.before is None else step.before)
        if run is None or run[-1] != step.before:
            run = []
            runs.append(run)
        run.append(position)
        run_of[position] = run
    return runs
