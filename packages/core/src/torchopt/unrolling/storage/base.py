"""The interfaces of a storage: a store of checkpoints, and a journal from which a run goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from torchopt.unrolling.context.attributes import AttributeChanges
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.identity import Circumstances
from torchopt.unrolling.vjp import Cotangents

Keep = Callable[[list[int], int], None]
"""Adds a step's number to the numbers of the checkpoints that are kept, or drops some of them."""


class Store(Protocol):
    """Keeps the checkpoints of one loop; what it returns for one of them is called a token."""

    def put(self, checkpoint: Checkpoint) -> Any:
        """Begin to keep ``checkpoint``, whose step may not have run yet; return its token."""
        ...

    def settle(self, token: Any, checkpoint: Checkpoint, result: StepResult | None) -> Any:
        """Complete what :meth:`put` began; return the new token.

        Args:
            token: What :meth:`put` returned.
            checkpoint: The same checkpoint, with the inner gradients of its step.
            result: What the step returned, if it has run.
        """
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


class End(NamedTuple):
    """How a forward pass ended.

    Attributes:
        taken: Number of steps taken.
        carry: Leaves of the last carry.
        random: The generators after the last step.
    """

    taken: int
    carry: Leaves
    random: RandomState


class Resumed(NamedTuple):
    """Where a forward pass goes on that was interrupted.

    Attributes:
        checkpoint: The checkpoint of the step to run first; if the forward pass had ended, of the
            first step of all, which shows what a step returns.
        random: The generators before the first step of all.
        kept: The numbers of the checkpoints in the store, which are their tokens.
        attributes: What the steps before found in modules.
        end: The end of the forward pass, if it had ended.
    """

    checkpoint: Checkpoint
    random: RandomState
    kept: list[int]
    attributes: AttributeChanges
    end: End | None


class Returned(NamedTuple):
    """Where a backward pass goes on that was interrupted.

    Attributes:
        number: The steps from this number on are done.
        carry: Cotangents of the tensors of the carry before this step.
        consts: Cotangents of the tensors of consts, as far as they are known.
        kept: The numbers of the checkpoints to begin with.
    """

    number: int
    carry: Cotangents
    consts: Cotangents
    kept: list[int]


class Journal:
    """What a run writes down so that another process can go on; this one writes nothing."""

    def resume(self, kept_before: Callable[[int], list[int]]) -> Resumed | None:
        """Return where the forward pass goes on; None: it begins.

        Args:
            kept_before: Tells which checkpoints the strategy keeps of the steps before a number.
        """
        return None

    def earlier_ys(self, number: int, checkpoint: Checkpoint, result: StepResult) -> list[Leaves]:
        """Return the leaves of every ``y`` before a step that was run again.

        Args:
            number: Number of the step; or the number of steps, if the forward pass had ended.
            checkpoint: The checkpoint of the step, with its inner gradients.
            result: What the step returned now.

        Raises:
            RuntimeError: that is not what it returned before.
        """
        raise NotImplementedError

    def stepped(self, checkpoint: Checkpoint, result: StepResult, *, is_kept: bool) -> None:
        """Note a step of the forward pass."""

    def ended(self, end: End) -> None:
        """Note the end of the forward pass."""

    def go_back(
        self, cotangents: Cotangents, xs: Cotangents, needed: tuple[bool, ...]
    ) -> Returned | None:
        """Return where the backward pass goes on; None: it begins.

        Args:
            cotangents: The cotangents that the backward pass begins with.
            xs: Cotangents of xs, whose known rows are filled in.
            needed: Which tensors of the loop need a gradient.

        """
        return None

    def stepped_back(
        self, number: int, carry: Cotangents, xs: Cotangents, consts: Cotangents
    ) -> None:
        """Note a step of the backward pass.

        Args:
            number: Number of the step.
            carry: Cotangents of the tensors of the carry before it.
            xs: Cotangents of xs, whose rows are known from this step on.
            consts: Cotangents of consts, as far as they are known.
        """

    def close(self, *, is_retained: bool) -> None:
        """Note the end of the backward pass; another may follow if the graph is retained."""

    def release(self) -> None:
        """Let another call go on from what is written: this one has failed."""


class Session(NamedTuple):
    """What a storage keeps of one call of ``unroll``.

    Attributes:
        store: The checkpoints.
        journal: What a run needs to go on.
    """

    store: Store
    journal: Journal


class Storage(ABC):
    """A place for checkpoints; the argument ``storage=`` of a strategy."""

    keeps_layout: ClassVar[bool] = False
    """Whether tensors come back with the strides that they had."""

    @abstractmethod
    def open(self, loop: Loop, circumstances: Circumstances) -> Session:
        """Return what keeps the checkpoints of ``loop``, whose tensors have no history."""
