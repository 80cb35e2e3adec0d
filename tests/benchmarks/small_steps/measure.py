"""All measurements; runs in its own process and prints JSON."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from small_steps import problems
from small_steps.problems import KINDS, RULES, Timed

IN_A_ROW = 10
ROWS: dict[str, Callable[[str, str], Timed]] = {
    '`update` and `apply_updates`': functools.partial(problems.functional, backward=False),
    'with the backward pass': functools.partial(problems.functional, backward=True),
    '`MetaOptimizer.step`': functools.partial(problems.object_oriented, backward=False),
    'with the outer loss and its backward pass': functools.partial(
        problems.object_oriented, backward=True
    ),
    '`Optimizer.step`': problems.plain,
}


def main() -> None:
    """Print one record."""
    torch.set_num_threads(1)
    seconds = 0.02 if sys.argv[1] == 'quick' else 3.0
    steps = {
        rule: {
            row: _medians({k: make(rule, k) for k in KINDS}, seconds) for row, make in ROWS.items()
        }
        for rule in RULES
    }
    marks = _medians(
        {
            'functional': problems.marks('sgd', held=False),
            'MetaSGD': problems.marks('sgd', held=True),
            'MetaAdam': problems.marks('adam', held=True),
        },
        seconds,
    )
    print(json.dumps({'steps': steps, 'marks': marks}))


def _medians(timed: Mapping[str, Timed], seconds: float) -> dict[str, float]:
    """Time in turn, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for each in timed.values():
        for _ in range(10):
            each.run(each.prepare())
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, each in timed.items():
            # Several at a time: in a loop of steps, too, the code is in the caches.
            for _ in range(IN_A_ROW):
                prepared = each.prepare()
                begin = time.thread_time_ns()
                each.run(prepared)
                times[name].append((time.thread_time_ns() - begin) / 1e9)
    return {name: median(values) for name, values in times.items()}


if __name__ == '__main__':
    main()
