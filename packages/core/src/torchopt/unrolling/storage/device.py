"""Checkpoints that stay where they are."""

from __future__ import annotations

from typing import ClassVar

from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.base import Journal, Session, Storage
from torchopt.unrolling.storage.identity import Circumstances


class OnDevice(Storage):
    """Every tensor of a carry stays on its device: no copy, the fastest, the most memory."""

    keeps_layout: ClassVar[bool] = True

    def open(self, loop: Loop, circumstances: Circumstances) -> Session:
        """Return a store that holds references."""
        return Session(_References(), Journal())


class _References:
    """A store whose tokens are the checkpoints themselves."""

    def put(self, checkpoint: Checkpoint) -> Checkpoint:
        return checkpoint

    def settle(
        self, token: Checkpoint, checkpoint: Checkpoint, result: StepResult | None
    ) -> Checkpoint:
        return checkpoint

    def get(self, token: Checkpoint) -> Checkpoint:
        return token

    def prefetch(self, token: Checkpoint) -> None:
        pass

    def free(self, token: Checkpoint) -> None:
        pass

    def finish(self) -> None:
        pass
