"""The sizes of the problem, apart from the problem for who must not import torch."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """How many tasks of how many points each, for an MLP of two hidden layers."""

    tasks: int = 25
    width: int = 40
    shots: int = 10

    def __str__(self) -> str:
        return f'{self.tasks} tasks, width {self.width}, {self.shots} shots'


SIZES = {'small': Size(), 'large': Size(8, 256, 32)}
