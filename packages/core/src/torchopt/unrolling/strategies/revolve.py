r"""Binomial checkpointing: where to take snapshots so that the fewest steps are run again.

With :math:`s` snapshots, one of them the initial state, and :math:`\beta(s, r) =
\binom{s + r}{s}`, reversing :math:`l` steps takes

.. math::

    t(l, s) = r\,l - \beta(s + 1, r - 1), \qquad \beta(s, r - 1) < l \le \beta(s, r),

evaluations beside the differentiated evaluation of every step, and no schedule takes fewer:
Griewank and Walther, *Algorithm 799: Revolve*, ACM Transactions on Mathematical Software 26(1),
2000.
"""

from __future__ import annotations

import functools
import math


def _repetitions(length: int, snapshots: int) -> int:
    """Return the smallest r with ``length <= beta(snapshots, r)``."""
    repetitions = 0
    while _beta(snapshots, repetitions) < length:
        repetitions += 1
    return repetitions


def _beta(snapshots: int, repetitions: int) -> int:
    return math.comb(snapshots + repetitions, snapshots) if repetitions >= 0 else 0


@functools.cache
def evaluations(length: int, snapshots: int) -> int:
    """Return the least number of evaluations that reverses ``length`` steps.

    It includes the first run through all steps but the last, and excludes the differentiated
    evaluations.
    """
    repetitions = _repetitions(length, snapshots)
    return repetitions * length - _beta(snapshots + 1, repetitions - 1)


def split(length: int, snapshots: int) -> int:
    """Return after how many of ``length`` > 1 steps the next snapshot is best taken.

    One of the ``snapshots`` holds the state before the first step. If it is the only one, the
    answer is the distance to the last step, whose state is then not kept.
    """
    if snapshots == 1:
        return length - 1
    repetitions = _repetitions(length, snapshots)
    # A position is optimal if neither part exceeds its number of repetitions.
    return max(_beta(snapshots, repetitions - 2), length - _beta(snapshots - 1, repetitions), 1)


def first_snapshots(length: int, snapshots: int) -> list[int]:
    """Return the numbers of the steps before which the first run takes its snapshots."""
    numbers = [0] if length else []
    while snapshots > 1 and length > 1:
        ahead = split(length, snapshots)
        numbers.append(numbers[-1] + ahead)
        length, snapshots = length - ahead, snapshots - 1
    return numbers


def worth_keeping(numbers: list[int], end: int, snapshots: int) -> list[int]:
    """Choose, from the snapshots before steps ``numbers``, which to keep for reversing to ``end``.

    The first is always kept. A badly placed snapshot is worth less than a free place for a new one.
    """
    # best[position]: least evaluations from there to the end, and the snapshots that reach them,
    # if as many as `held` are kept before it.
    best: dict[int, tuple[int, list[int]]] = {}
    for held in range(len(numbers) - 1, -1, -1):
        own = snapshots - held
        best = {
            position: min(
                [(evaluations(end - numbers[position], own), [position])]
                + [
                    (
                        evaluations(numbers[following] - numbers[position], own) + cost,
                        [position, *choice],
                    )
                    for following, (cost, choice) in best.items()
                    if following > position
                ]
            )
            for position in range(held, len(numbers))
        }
    return [numbers[position] for position in best[0][1]]
