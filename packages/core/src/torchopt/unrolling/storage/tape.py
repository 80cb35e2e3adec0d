"""The checkpoints that are kept, in the order of their steps, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.base import Keep, Store


class _Kept(NamedTuple):
    """One checkpoint in the store.

    Attributes:
        number: Number of its step.
        token: What the store knows it by.
        owned: Whether it goes away with its last use on this tape.
    """

    number: int
    token: Any
    owned: bool = True


class Tape:
    """A stack of checkpoints in a store.

    Attributes:
        numbers: The numbers of their steps, in rising order; not to be changed from outside.
    """

    def __init__(self, store: Store, numbers: Iterable[int] = ()) -> None:
        """Take a store.

        Args:
            store: What holds the checkpoints.
            numbers: What it holds already, with the numbers as tokens.
        """
        self.numbers = list(numbers)
        self._store = store
        self._kept = [_Kept(number, number) for number in self.numbers]

    def offer(self, checkpoint: Checkpoint, keep: Keep) -> bool:
        """Keep ``checkpoint``, and drop others, as ``keep`` decides.

        Args:
            checkpoint: The checkpoint of a step beyond all others.
            keep: What decides.

        Returns:
            Whether ``checkpoint`` was kept.
        """
        keep(self.numbers, checkpoint.number)
        is_kept = bool(self.numbers) and self.numbers[-1] == checkpoint.number
        is_complete = len(self.numbers) == len(self._kept) + is_kept
        if not is_complete:
            self._drop_others()
        if is_kept:
            self._put(checkpoint)
        return is_kept

    def retain(self, numbers: Iterable[int]) -> None:
        """Drop all checkpoints but those before the steps of these ``numbers``."""
        self.numbers[:] = numbers
        self._drop_others()

    def push(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint of a step beyond all others."""
        self.numbers.append(checkpoint.number)
        self._put(checkpoint)
        self.settle(checkpoint)

    def settle(self, checkpoint: Checkpoint, result: StepResult | None = None) -> None:
        """Keep what the step of the last checkpoint has added to it, and what it returned."""
        kept = self._kept[-1]
        self._kept[-1] = kept._replace(token=self._store.settle(kept.token, checkpoint, result))

    def top(self) -> Checkpoint:
        """Return the last checkpoint, and keep it."""
        return self._store.get(self._kept[-1].token)

    def pop(self) -> Checkpoint:
        """Return the last checkpoint, and drop it."""
        self.numbers.pop()
        kept = self._kept.pop()
        checkpoint = self._store.get(kept.token)
        self._free(kept)
        if self._kept:
            self._store.prefetch(self._kept[-1].token)
        return checkpoint

    def copy(self) -> Tape:
        """Return a tape with the same checkpoints, which remain when it has dropped them."""
        tape = Tape(self._store)
        tape.numbers = list(self.numbers)
        tape._kept = [kept._replace(owned=False) for kept in self._kept]
        return tape

    def finish(self) -> None:
        """Complete what the store has under way."""
        self._store.finish()

    def _put(self, checkpoint: Checkpoint) -> None:
        self._kept.append(_Kept(checkpoint.number, self._store.put(checkpoint)))

    def _drop_others(self) -> None:
        wanted = set(self.numbers)
        dropped = [kept for kept in self._kept if kept.number not in wanted]
        self._kept = [kept for kept in self._kept if kept.number in wanted]
        for kept in dropped:
            self._free(kept)

    def _free(self, kept: _Kept) -> None:
        if kept.owned:
            self._store.free(kept.token)
