"""Modes and other plain attributes of modules: recorded before every step, and replayed."""

from __future__ import annotations

import bisect
import enum
import operator
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.leaves import IMMUTABLE

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class Mark(enum.Enum):
    """What takes the place of a value that is not known."""

    ABSENT = enum.auto()
    """The attribute does not exist."""
    KEPT = enum.auto()
    """The attribute holds something mutable, which stays as a second run finds it."""


AttributeChanges: TypeAlias = dict[int, tuple[list[int], list[Any]]]
"""For each attribute that changed: the numbers of the steps that found a new value, and these."""


class PlainAttributes:
    """The attributes of modules that hold immutable values, as every step found them.

    ``training`` is one of them. So are the probability of a dropout, counts, names and activation
    functions. An attribute counts if its value was immutable when the loop began.

    Attributes:
        changes: What the steps found that differs from what the first one found.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._places = [
            (owner, key)
            for owner in map(vars, modules)
            for key, value in owner.items()
            if is_plain(value)
        ]
        self._first = self._read()
        self._last = self._first
        self.changes: AttributeChanges = {}

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
                    numbers, values = self.changes.setdefault(position, ([], []))
                    numbers.append(number)
                    values.append(new if new is Mark.ABSENT or is_plain(new) else Mark.KEPT)
            self._last = found

    def resume(self, changes: AttributeChanges, number: int) -> None:
        """Go on with what another process has noted, before the step of this number.

        Raises:
            RuntimeError: the modules do not have the attributes that it had.
        """
        if any(position >= len(self._places) for position in changes):
            raise RuntimeError(
                'a module that the step of unroll uses has not the attributes that it had when the '
                'interrupted run began: make the modules as they were then'
            )
        self.changes = changes
        self._write(self._found_by(number))
        self._last = self._read()

    @contextmanager
    def replayed(self, number: int = 0) -> Iterator[None]:
        """Let the block find what the step of this number found; restore everything after it."""
        before = self._read()
        try:
            self._write(self._found_by(number))
            yield
        finally:
            self._write(before)

    def _found_by(self, number: int) -> list[Any]:
        """Return the values that the step of this number found."""
        found = list(self._first)
        for position, (numbers, values) in self.changes.items():
            known = bisect.bisect_right(numbers, number)
            if known:
                found[position] = values[known - 1]
        return found

    def _read(self) -> list[Any]:
        return [owner.get(key, Mark.ABSENT) for owner, key in self._places]

    def _write(self, values: list[Any]) -> None:
        for (owner, key), value in zip(self._places, values):
            if value is Mark.KEPT or owner.get(key, Mark.ABSENT) is value:
                continue
            if value is Mark.ABSENT:
                owner.pop(key, None)
            else:
                owner[key] = value


def is_plain(value: Any) -> bool:
    """Tell whether a value cannot change, or is a function."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return isinstance(value, (*IMMUTABLE, *_FUNCTIONS))
