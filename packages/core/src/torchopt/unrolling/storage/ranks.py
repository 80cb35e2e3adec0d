"""Ranks that go on together, from what all of them have written."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


class Ranks:
    """The ranks that run the same steps.

    Attributes:
        count: Their number; 1 where each goes on alone.
    """

    def __init__(self, *, together: bool) -> None:
        is_one_of_many = dist.is_available() and dist.is_initialized()
        self._total = dist.get_world_size() if is_one_of_many else 1
        self._rank = dist.get_rank() if is_one_of_many else 0
        self.count = self._total if together else 1

    @property
    def name(self) -> str:
        """The name of this rank; empty where there is no other."""
        return f'rank-{self._rank:04}' if self._total > 1 else ''

    @property
    def total(self) -> int:
        """The number of all ranks."""
        return self._total

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all ranks that go on together."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def common(self, numbers: list[int]) -> list[int]:
        """Return the numbers that all of them have, in rising order."""
        return sorted(set.intersection(*map(set, self.gathered(numbers))))
