"""Checkpoints in files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torchopt.unrolling.inner_gradients.cache import GradientCache
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import versions
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage import files
from torchopt.unrolling.storage.base import Storage, Store
from torchopt.unrolling.storage.encoding import Form, decode, decode_random, encode, encode_random


@dataclass(frozen=True)
class Disk(Storage):
    """Carries are written to files of a folder, and read when they are needed.

    Attributes:
        folder: The folder; made if it is not there.
        keep: Leave the files where they are when the backward pass has ended.
    """

    folder: str | os.PathLike[str]
    keep: bool = False

    def open(self, loop: Loop) -> Store:
        """Return the store for one call of ``unroll``."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return _DiskStore(folder, loop)


class _Token(NamedTuple):
    number: int
    cache: GradientCache | None = None


class _DiskStore:
    """A store whose tokens tell the number of a file."""

    def __init__(self, folder: Path, loop: Loop) -> None:
        self._folder = folder
        self._forms = [Form.of(leaf) for leaf in loop.carry]

    def put(self, checkpoint: Checkpoint) -> _Token:
        content = {
            'number': checkpoint.number,
            'carry': encode(checkpoint.carry, self._forms),
            'random': encode_random(checkpoint.random),
        }
        files.write(self._carry(checkpoint.number), content)
        return _Token(checkpoint.number)

    def settle(self, token: _Token, checkpoint: Checkpoint) -> _Token:
        if checkpoint.cache is None:
            return token
        raise NotImplementedError

    def get(self, token: _Token) -> Checkpoint:
        content = files.read(self._carry(token.number), 'x')
        carry = decode(content['carry'], self._forms)
        random = decode_random(content['random'])
        return Checkpoint(token.number, carry, random, versions(carry))

    def prefetch(self, token: _Token) -> None:
        pass

    def free(self, token: _Token) -> None:
        files.remove(self._carry(token.number))

    def finish(self) -> None:
        pass

    def _carry(self, number: int) -> Path:
        return self._folder / f'carry-{number:08}.pt'
