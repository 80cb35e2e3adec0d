"""What is known of short runs, continued to longer ones."""

from __future__ import annotations

from collections.abc import Mapping


def extrapolated(known: Mapping[int, float], steps: int) -> float:
    """Return what the two longest runs let expect of one of more ``steps``; 0 if there are not two.

    Args:
        known: Memory, or time, by the number of steps.
        steps: More than any in ``known``.
    """
    if len(known) < 2:
        return 0.0
    (short, less), (long, more) = sorted(known.items())[-2:]
    return more + (more - less) / (long - short) * (steps - long)
