"""Checkpoints in the memory of the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, versions
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage.base import Journal, Session, Storage
from torchopt.unrolling.storage.identity import Circumstances
from torchopt.unrolling.storage.parts import Recipe, take_apart
from torchopt.unrolling.storage.transfers import Transfers

STAYS = ('cpu', 'meta')
"""Types of the devices whose tensors are not copied."""


class OnHost(Storage):
    """Carries move to the memory of the host, and back when they are needed.

    On CUDA the copies run beside the steps, from and to pinned memory. A tensor that is on the CPU
    already is not copied.
    """

    def open(self, loop: Loop, circumstances: Circumstances) -> Session:
        """Return a store of host memory."""
        return Session(_HostStore(), Journal())


class _Moved(NamedTuple):
    """A tensor that was on another device.

    Attributes:
        plain: The tensors that it consists of, on the CPU.
        devices: Where they were.
        recipe: How they make it up.
    """

    plain: list[torch.Tensor]
    devices: list[torch.device]
    recipe: Recipe


class _HostStore:
    """A store whose tokens are checkpoints with :class:`_Moved` tensors."""

    def __init__(self) -> None:
        self._transfers = Transfers()
        # The token that was loaded ahead, and what it gave.
        self._ahead: tuple[Checkpoint, Checkpoint] | None = None

    def put(self, checkpoint: Checkpoint) -> Checkpoint:
        self._transfers.wait()
        carry = [self._away(leaf) for leaf in checkpoint.carry]
        return checkpoint._replace(carry=carry, versions=versions(carry))

    def settle(
        self, token: Checkpoint, checkpoint: Checkpoint, result: StepResult | None
    ) -> Checkpoint:
        if checkpoint.cache is None:
            return token
        return token._replace(cache=checkpoint.cache.mapped(self._away))

    def get(self, token: Checkpoint) -> Checkpoint:
        if self._ahead is None or self._ahead[0] is not token:
            self.prefetch(token)
        assert self._ahead is not None
        checkpoint, self._ahead = self._ahead[1], None
        self._transfers.wait()
        return checkpoint

    def prefetch(self, token: Checkpoint) -> None:
        self.finish()
        carry = [self._back(leaf) for leaf in token.carry]
        cache = None if token.cache is None else token.cache.mapped(self._back)
        # Where a tensor never moved, it may have been written to since.
        before = iter(token.versions)
        now = [
            next(before) if leaf is kept else leaf._version
            for leaf, kept in zip(carry, token.carry)
            if isinstance(leaf, torch.Tensor) and not leaf.is_inference()
        ]
        self._ahead = token, token._replace(carry=carry, versions=now, cache=cache)

    def free(self, token: Checkpoint) -> None:
        pass

    def finish(self) -> None:
        # What was loaded in vain may be freed only when the copy is done.
        self._transfers.wait()
        self._ahead = None

    def _away(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        plain, recipe = take_apart(leaf)
        if all(part.device.type in STAYS for part in plain):
            return leaf
        devices = [part.device for part in plain]
        return _Moved([self._transfers.to_host(part) for part in plain], devices, recipe)

    def _back(self, leaf: Any) -> Any:
        if not isinstance(leaf, _Moved):
            return leaf
        parts = list(map(self._transfers.to_device, leaf.plain, leaf.devices))
        return leaf.recipe.build(iter(parts))
