"""The cotangents from which a backward pass goes on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch

from torchopt.authoring.torch_internals import is_mapped_by_autograd
from torchopt.unrolling.leaves import tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.storage import files
from torchopt.unrolling.storage.base import Returned
from torchopt.unrolling.storage.disk_store import DiskStore
from torchopt.unrolling.storage.encoding import Form, decode, encode
from torchopt.unrolling.storage.folder import Folder
from torchopt.unrolling.storage.identity import update_with_tensor
from torchopt.unrolling.storage.ranks import Ranks
from torchopt.unrolling.vjp import Cotangents

# What a kill costs at most, as a part of a pass, where `every` is not given.
_PARTS = 16
CURE = 'empty the folder to begin again'
"""What to do where a file is damaged that is not of a step."""


def distance(every: int | None, length: int) -> int:
    """Return after how many of ``length`` steps something is written to go on from."""
    return every or math.ceil(length / _PARTS)


class DiskCotangents:
    """The files ``cotangents-`` and, for the rows of the cotangents of xs, ``rows-``."""

    def __init__(
        self,
        folder: Folder,
        store: DiskStore,
        loop: Loop,
        ranks: Ranks,
        *,
        every: int | None,
        keep: bool,
    ) -> None:
        self._folder = folder
        self._store = store
        self._loop = loop
        self._ranks = ranks
        self._every = every
        self._keep = keep
        self._taken = 0
        # What the backward pass began with, and the last number on disk.
        self._given: dict[str, Any] = {}
        self._returned = 0
        self._is_writing = True

    def go_back(
        self,
        taken: int,
        cotangents: Cotangents,
        xs: Cotangents,
        needed: tuple[bool, ...],
        *,
        is_resumed: bool,
    ) -> Returned | None:
        """Find the last cotangents to go on from.

        Args:
            taken: Number of steps taken.
            cotangents: See :meth:`Journal.go_back`.
            xs: See there.
            needed: See there.
            is_resumed: Whether the forward pass ended in another process, which may have gone back.
        """
        self._taken = taken
        # torch maps over such cotangents: they can be written nowhere.
        self._is_writing = not any(map(is_mapped_by_autograd, cotangents))
        self._returned = self._taken
        if not self._is_writing:
            return None
        self._given = {'given': _hash_of(cotangents), 'needed': list(needed)}
        if not is_resumed:
            self.forget()
            return None
        mine = [
            number for number in self._folder.numbers('cotangents') if self._is_usable(number, xs)
        ]
        common = self._ranks.common(mine)
        kept = self._ranks.common(self._folder.numbers('step'))
        if not common:
            self.forget()
            carry_end = len(self._forms_of_carry())
            unknown = [None for _ in self._forms_of_consts()]
            return Returned(self._taken, cotangents[:carry_end], unknown, kept)
        number = self._returned = common[0]
        self._read_rows(number, xs)
        content = files.read(self._folder.file('cotangents', number), CURE)
        carry = decode(content['carry'], self._forms_of_carry())
        consts = decode(content['consts'], self._forms_of_consts())
        return Returned(number, carry, consts, [n for n in kept if n < number])

    def _is_usable(self, number: int, xs: Cotangents) -> bool:
        """Tell whether cotangents are of this backward pass, and whether all rows are there."""
        content = files.read(self._folder.file('cotangents', number), CURE)
        written = self._folder.numbers('rows')
        while tensors_of(xs) and number < self._taken:
            if number not in written:
                return False
            number = files.read(self._folder.file('rows', number), CURE)['end']
        return all(content[name] == value for name, value in self._given.items())

    def _read_rows(self, number: int, xs: Cotangents) -> None:
        """Fill in the rows of the cotangents of xs from ``number`` on."""
        while tensors_of(xs) and number < self._taken:
            content = files.read(self._folder.file('rows', number), CURE)
            parts = [None if total is None else total[number : content['end']] for total in xs]
            found = decode(content['rows'], [Form.of(part) for part in parts])
            for part, row in zip(parts, found):
                if part is not None:
                    part.copy_(row)
            number = content['end']

    def stepped_back(
        self, number: int, carry: Cotangents, xs: Cotangents, consts: Cotangents
    ) -> None:
        """Write the cotangents, every so often."""
        is_due = self._returned - number >= distance(self._every, self._taken)
        is_last = number == 0
        if not self._is_writing or not (self._keep if is_last else is_due):
            return
        rows = [None if total is None else total[number : self._returned] for total in xs]
        try:
            content = {
                'number': number,
                'carry': encode(carry, self._forms_of_carry()),
                'consts': encode(consts, self._forms_of_consts()),
                **self._given,
            }
            encoded = encode(rows, [Form.of(row) for row in rows])
        except TypeError:
            # A cotangent with other placements than its tensor: the next may be like it.
            return
        if any(row is not None for row in rows):
            rows_content = {'end': self._returned, 'rows': encoded}
            files.write(self._folder.file('rows', number), rows_content)
        files.write(self._folder.file('cotangents', number), content)
        # Other ranks may not have come as far.
        last = number if self._ranks.count == 1 else self._returned
        older = [n for n in self._folder.numbers('cotangents') if n > last]
        self._folder.remove('cotangents', older)
        self._returned = number
        self._store.purge()

    def forget(self) -> None:
        """Remove all cotangents."""
        # In this order, because rows without cotangents are harmless.
        self._folder.forget('cotangents')
        self._folder.forget('rows')

    def _forms_of_carry(self) -> list[Form]:
        return [form for form in self._store.forms if form.recipe is not None]

    def _forms_of_consts(self) -> list[Form]:
        return [Form.of(tensor) for tensor in tensors_of(self._loop.consts)]


def _hash_of(tensors: Sequence[torch.Tensor | None]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(b'|')
        if tensor is not None:
            update_with_tensor(found, tensor)
    return found.hexdigest()
