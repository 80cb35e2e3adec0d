"""Carries in files, from which a run that was killed goes on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.storage.base import Session, Storage
from torchopt.unrolling.storage.disk_journal import DiskJournal
from torchopt.unrolling.storage.disk_store import DiskStore
from torchopt.unrolling.storage.encoding import encode_random
from torchopt.unrolling.storage.folder import Folder
from torchopt.unrolling.storage.identity import Circumstances, identity_of
from torchopt.unrolling.storage.ranks import Ranks


@dataclass(frozen=True)
class Disk(Storage):
    """Carries are written to the files of a folder; one or two are in memory at a time.

    A process that was killed at any moment, and does the same again with the same folder, goes on:
    the forward pass from the last carry written, the backward pass from the last cotangent. The
    gradient is the same, bit for bit, on the same machine with the same settings of torch. What
    the folder belongs to is checked: the code of the step, the values, shapes and dtypes of all
    inputs, the strategy, the versions of torch and Python. The step to go on from is run again, and
    its result compared. ``progress`` is called for the steps that are run, and not for the others.

    One folder serves one call of ``unroll``: give each its own, named by the outer iteration. It is
    emptied when a backward pass has ended; if the graph was retained, when the graph is freed.
    Where no backward pass comes, it stays. Where nothing requires grad, nothing is written.

    Files (``torch.load(file, weights_only=True)`` reads each):

    - ``run.pt``: what the folder belongs to.
    - ``step-N.pt``: the carry before step N, the generators, kept inner gradients. A tensor is the
      list of the plain tensors in it (of a sharded one, this rank's shard).
    - ``ys-N.pt``: every ``y`` before step N that no earlier file holds; ``end.pt``: the last carry.
    - ``cotangents-N.pt``: the cotangents of the carry before step N, and of consts so far;
      ``rows-N.pt``: of the rows of xs from N on.

    A file is written under another name, and gets its own when it is complete. On several ranks
    each has a folder of its own in this one.

    Attributes:
        folder: The folder; made if it is not there.
        every: After how many steps the backward pass writes cotangents, and the forward pass of
            ``Snapshots`` a carry to go on from; None: a sixteenth of all steps.
        keep: Keep the results when the backward pass has ended: the last carry, ``ys`` and the
            gradient. A process that is killed after that finds them.
        together: On several ranks, go on from what all of them have written, as steps with
            collectives need. Every rank then calls ``unroll`` equally often. False: each alone.

    Raises:
        ValueError: ``every`` is less than 1.
    """

    folder: str | os.PathLike[str]
    every: int | None = None
    keep: bool = False
    together: bool = True

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f'every must be at least 1, got {self.every}')

    def open(self, loop: Loop, circumstances: Circumstances) -> Session:
        """Take the folder for one call of ``unroll``.

        Raises:
            ValueError: it belongs to another run, or holds other files.
            RuntimeError: another call uses it.
            OSError: it cannot be read or written.
        """
        ranks = Ranks(together=self.together)
        identity = {**identity_of(loop, circumstances), 'number of ranks': str(ranks.total)}
        random = RandomState.capture(loop.tensors())
        folder = Folder(
            Path(self.folder).absolute() / ranks.name, identity, {'random': encode_random(random)}
        )
        store = DiskStore(folder, loop, circumstances, is_alone=ranks.count == 1)
        attributes = circumstances.surroundings.attributes
        journal = DiskJournal(
            folder, store, loop, attributes, ranks, every=self.every, keep=self.keep
        )
        return Session(store, journal)
