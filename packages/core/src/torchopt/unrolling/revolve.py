r"""Binomial checkpointing: where to put snapshots so that the fewest steps are run again.

With :math:`s` snapshots, of which one is the initial state, and :math:`\beta(s, r) =
\binom{s + r}{s}`, reversing :math:`l` steps takes

.. math::

    t(l, s) = r\,l - \beta(s + 1, r - 1), \qquad \beta(s, r - 1) < l \le \beta(s, r),

evaluations beside the one of every step whose derivative is taken, and no schedule takes fewer:
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
    """Return the least number of evaluations with which ``length`` steps can be reversed.

    The first run through all steps but the last is counted, the differentiated evaluations are
    not.
    """
    repetitions = _repetitions(length, snapshots)
    return repetitions * length - _beta(snapshots + 1, repetitions - 1)


def split(length: int, snapshots: int) -> int:
    """Return after how many of ``length`` > 1 steps the next snapshot is best taken.

    Of ``snapshots``, one holds the state before the first of the steps. With no other, the answer
    is the distance to the last step, whose state is then not kept.
    """
    if snapshots == 1:
        return length - 1
    repetitions = _repetitions(length, snapshots)
    # Any position is optimal from which both parts keep to their numbers of repetitions.
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
    """Return the snapshots, of those before steps ``numbers``, that are best kept until ``end``.

    The first is one of them. One that stands badly is better given up for one between others.
    """
    # best[position]: evaluations from there, and the choice, if so many are held before it.
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
