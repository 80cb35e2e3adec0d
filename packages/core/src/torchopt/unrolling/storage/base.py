"""The interface of a store, and the argument ``storage=`` of the strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.checkpoint import Checkpoint


class Store(Protocol):
    """Keeps the checkpoints of one loop; what it returns for one of them is called a token."""

    def put(self, checkpoint: Checkpoint) -> Any:
        """Keep ``checkpoint``, whose step has not run yet; return its token."""
        ...

    def settle(self, token: Any, checkpoint: Checkpoint) -> Any:
        """Keep the inner gradients too, now that the step has run; return the new token."""
        ...

    def get(self, token: Any) -> Checkpoint:
        """Return a checkpoint, with its tensors on the devices where the step needs them."""
        ...

    def prefetch(self, token: Any) -> None:
        """Begin to load a checkpoint that is needed soon."""
        ...

    def free(self, token: Any) -> None:
        """Drop a checkpoint that is not needed any more."""
        ...

    def finish(self) -> None:
        """Complete what is under way: the forward or the backward pass has ended, or failed."""
        ...


class Storage(ABC):
    """A place for checkpoints; the argument ``storage=`` of a strategy."""

    @abstractmethod
    def open(self, loop: Loop) -> Store:
        """Return the store for the checkpoints of ``loop``, whose tensors have no history."""
