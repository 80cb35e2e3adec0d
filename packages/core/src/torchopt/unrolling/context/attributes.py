"""Modes and other plain attributes of modules: recorded before every step, and replayed."""

from __future__ import annotations

import bisect
import enum
import operator
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.leaves import IMMUTABLE

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class _Mark(enum.Enum):
    ABSENT = enum.auto()
    """The attribute does not exist."""
    KEPT = enum.auto()
    """The attribute holds something mutable, which stays as a second run finds it."""


class PlainAttributes:
    """The attributes of modules that hold immutable values, as every step found them.

    ``training`` is one of them. So are the probability of a dropout, counts, names and activation
    functions. An attribute counts if its value was immutable when the loop began.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._places = [
            (owner, key)
            for owner in map(vars, modules)
            for key, value in owner.items()
            if _is_plain(value)
        ]
        self._first = self._read()
        self._last = self._first
        # For each place that changed: the numbers of the steps that found a new value.
        self._changes: dict[int, tuple[list[int], list[Any]]] = {}

    @classmethod
    def of_captured(cls, fn: Any) -> PlainAttributes:
        """Return the attributes of the modules that a function can see."""
        found = (part for _, part in captured_state(fn) if isinstance(part, nn.Module))
        return cls({id(module): module for part in found for module in part.modules()}.values())

    def observe(self, number: int) -> None:
        """Note what the step of this number finds; steps come in order."""
        found = self._read()
        if any(map(operator.is_not, found, self._last)):
            for position, (new, old) in enumerate(zip(found, self._last)):
                if new is not old:
                    numbers, values = self._changes.setdefault(position, ([], []))
                    numbers.append(number)
                    values.append(new if new is _Mark.ABSENT or _is_plain(new) else _Mark.KEPT)
            self._last = found

    @contextmanager
    def replayed(self, number: int = 0) -> Iterator[None]:
        """Let the block find what the step of this number found; restore everything after it."""
        before = self._read()
        wanted = list(self._first)
        for position, (numbers, values) in self._changes.items():
            known = bisect.bisect_right(numbers, number)
            if known:
                wanted[position] = values[known - 1]
        try:
            self._write(wanted)
            yield
        finally:
            self._write(before)

    def _read(self) -> list[Any]:
        return [owner.get(key, _Mark.ABSENT) for owner, key in self._places]

    def _write(self, values: list[Any]) -> None:
        for (owner, key), value in zip(self._places, values):
            if value is _Mark.KEPT or owner.get(key, _Mark.ABSENT) is value:
                continue
            if value is _Mark.ABSENT:
                owner.pop(key, None)
            else:
                owner[key] = value


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (*IMMUTABLE, *_FUNCTIONS))
