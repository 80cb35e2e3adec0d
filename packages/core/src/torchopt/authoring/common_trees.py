"""The most common trees, a dictionary, a list or a tuple of tensors, read without a search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SEQUENCES = (list, tuple)


def values_of(tree: Any) -> Iterable[Any] | None:
    """Return what a dictionary, a list or a tuple holds; None for any other tree."""
    if type(tree) is dict:
        return tree.values()
    return tree if type(tree) in SEQUENCES else None
