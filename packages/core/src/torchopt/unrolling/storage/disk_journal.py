"""What a run writes beside its checkpoints, so that another process can go on."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from torchopt.unrolling.context.attributes import PlainAttributes
from torchopt.unrolling.leaves import Leaves, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, versions
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage import files
from torchopt.unrolling.storage.base import End, Journal, Resumed, Returned
from torchopt.unrolling.storage.disk_cotangents import CURE, DiskCotangents, distance
from torchopt.unrolling.storage.disk_store import DiskStore
from torchopt.unrolling.storage.encoding import (
    Form,
    decode,
    decode_attributes,
    decode_random,
    encode,
    encode_attributes,
    encode_random,
)
from torchopt.unrolling.storage.folder import Folder
from torchopt.unrolling.storage.ranks import Ranks
from torchopt.unrolling.storage.sample import require_same, sample_of
from torchopt.unrolling.vjp import Cotangents

# How far ranks may be apart.
_MOST_POINTS = 4


class DiskJournal(Journal):
    """Notes of one call of ``unroll`` in its folder.

    A forward pass can go on before step n if there is the file ``step-n`` and if the files ``ys-``
    hold every ``y`` before it. A backward pass can go on from the file ``cotangents-n``, with the
    rows of the cotangents of xs in the files ``rows-``.
    """

    def __init__(
        self,
        folder: Folder,
        store: DiskStore,
        loop: Loop,
        attributes: PlainAttributes,
        ranks: Ranks,
        *,
        every: int | None,
        keep: bool,
    ) -> None:
        self._folder = folder
        self._store = store
        self._loop = loop
        self._attributes = attributes
        self._ranks = ranks
        self._every = every
        self._keep = keep
        # Every y that is not on disk, and the number of those that are.
        self._ys: list[Leaves] = []
        self._ys_written = 0
        self._y_forms: list[Form] = []
        # A step from whose file only the forward pass can go on.
        self._moving: int | None = None
        # By which a step that is run again is recognised.
        self._expected: list[torch.Tensor] = []
        self._first_sample: list[torch.Tensor] | None = None
        self._taken = 0
        self._is_after_the_end = False
        self._cotangents = DiskCotangents(folder, store, loop, ranks, every=every, keep=keep)
        self._at_the_end: weakref.finalize[..., Any] | None = None

    def resume(self, kept_before: Callable[[int], list[int]]) -> Resumed | None:
        """Find the last step to go on from."""
        has_ended = self._folder.end.exists()
        # Most often, all ranks have written as much; no two differ by many steps.
        most = 1 if self._ranks.count == 1 else _MOST_POINTS
        if all(self._ranks.gathered(has_ended)):
            return self._resume_at_the_end()
        points = list(itertools.islice(self._points(kept_before), most))
        common = self._ranks.common(points)
        number = common[-1] if common else None
        self._forget_what_follows(number, [] if number is None else kept_before(number))
        if number is None:
            return None
        content = self._store.read(number)
        checkpoint = self._store.checkpoint_of(content)
        self._expected = content['sample']
        self._ys_written = number
        kept = kept_before(number)
        self._moving = None if number in kept_before(number + 1) else number
        attributes = decode_attributes(content['attributes'])
        return Resumed(checkpoint, self._first_random(), kept, attributes, None)

    def _points(self, kept_before: Callable[[int], list[int]]) -> Iterator[int]:
        """Yield the numbers from which the forward pass can go on, from the last to the first."""
        written = self._folder.numbers('step')
        for number in reversed(written):
            content = self._store.read(number)
            is_complete = set(kept_before(number)) <= set(written)
            # A checkpoint of the backward pass has no sample.
            if is_complete and 'sample' in content and self._has_ys(content):
                yield number

    def _forget_what_follows(self, number: int | None, kept: list[int]) -> None:
        """Remove what is not needed to go on before the step of a number; None: everything."""
        self._cotangents.forget()
        files.remove(self._folder.end)
        written = self._folder.numbers('step')
        self._folder.remove('step', [n for n in written if n not in (*kept, number)])

    def _resume_at_the_end(self) -> Resumed:
        content = files.read(self._folder.end, CURE)
        self._taken = content['taken']
        self._is_after_the_end = True
        carry, random = self._loop.carry, self._first_random()
        first = Checkpoint(0, carry, random, versions(carry))
        self._expected = content['sample']
        end = End(
            self._taken,
            decode(content['carry'], self._store.forms),
            decode_random(content['random']),
        )
        kept = [number for number in self._folder.numbers('step') if number < self._taken]
        return Resumed(first, random, kept, decode_attributes(content['attributes']), end)

    def _first_random(self) -> Any:
        return decode_random(self._folder.run['random'])

    def _has_ys(self, content: dict[str, Any]) -> bool:
        """Tell whether every y before the step of a file is on disk."""
        first, written = content['number'], self._folder.numbers('ys')
        while content['has_ys'] and first in written:
            first = files.read(self._folder.file('ys', first), CURE)['first']
        return first == 0 or not content['has_ys']

    def earlier_ys(self, number: int, checkpoint: Checkpoint, result: StepResult) -> list[Leaves]:
        """Read every y before a step, after comparing the step with its first run."""
        step = self._loop.first + checkpoint.number
        require_same(step, checkpoint.carry, result.carry, self._expected)
        self._store.learn(checkpoint)
        self._y_forms = [Form.of(leaf) for leaf in result.y]
        if not tensors_of(result.y):
            return [list(result.y) for _ in range(number)]
        parts = []
        end = number
        while end:
            content = files.read(self._folder.file('ys', end), CURE)
            parts.append([decode(row, self._y_forms) for row in content['rows']])
            end = content['first']
        return [row for part in reversed(parts) for row in part]

    def stepped(self, checkpoint: Checkpoint, result: StepResult, *, is_kept: bool) -> None:
        """Write, every so often, what the forward pass needs to go on from here."""
        number = checkpoint.number
        if number == 0:
            self._y_forms = [Form.of(leaf) for leaf in result.y]
            self._first_sample = sample_of(result.carry)
        if is_kept or self._is_due(number):
            if not is_kept:
                self._store.settle(number, checkpoint, result)
            self._write_ys(number)
            self._forget_moving(number)
            self._moving = None if is_kept else number
            self._store.purge()
        self._ys.append(result.y)

    def ended(self, end: End) -> None:
        """Write the end of the forward pass."""
        self._write_ys(end.taken)
        if self._first_sample is None and end.taken:
            self._first_sample = self._store.read(0)['sample']
        content = {
            'taken': end.taken,
            'carry': encode(end.carry, self._store.forms),
            'random': encode_random(end.random),
            'attributes': encode_attributes(self._attributes.changes),
            'sample': self._first_sample or [],
        }
        files.write(self._folder.end, content)
        self._taken = end.taken
        self._forget_moving(end.taken)
        self._store.purge()

    def _is_due(self, number: int) -> bool:
        length = self._loop.length
        return length is not None and number > 0 and number % distance(self._every, length) == 0

    def _write_ys(self, end: int) -> None:
        if self._ys and tensors_of(self._ys[0]):
            rows = [encode(row, self._y_forms) for row in self._ys]
            content = {'first': self._ys_written, 'rows': rows}
            files.write(self._folder.file('ys', end), content)
        self._ys, self._ys_written = [], end

    def _forget_moving(self, number: int) -> None:
        if self._moving is not None and self._moving != number:
            self._store.free(self._moving)
        self._moving = None

    def go_back(
        self, cotangents: Cotangents, xs: Cotangents, needed: tuple[bool, ...]
    ) -> Returned | None:
        """Find the last cotangents to go on from."""
        return self._cotangents.go_back(
            self._taken, cotangents, xs, needed, is_resumed=self._is_after_the_end
        )

    def stepped_back(
        self, number: int, carry: Cotangents, xs: Cotangents, consts: Cotangents
    ) -> None:
        """Write the cotangents, every so often."""
        self._cotangents.stepped_back(number, carry, xs, consts)

    def close(self, *, is_retained: bool) -> None:
        """Empty the folder, or leave what is to be kept."""
        self._forget_end()
        if is_retained:
            if not self._keep:
                self._cotangents.forget()
            self._store.purge()
            # Nobody may go back again; then the folder is done with when the graph is.
            self._at_the_end = weakref.finalize(self, _done, self._folder, keep=self._keep)
        else:
            _done(self._folder, keep=self._keep)

    def release(self) -> None:
        """Let another call use the folder."""
        self._forget_end()
        self._folder.release()

    def _forget_end(self) -> None:
        if self._at_the_end is not None:
            self._at_the_end.detach()
            self._at_the_end = None


def _done(folder: Folder, *, keep: bool) -> None:
    """Empty a folder whose backward pass has ended, or leave the results in it."""
    if not keep:
        folder.empty()
        return
    if 0 in folder.numbers('cotangents'):
        folder.forget('step')
    folder.release()
