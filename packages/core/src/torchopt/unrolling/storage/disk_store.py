"""Checkpoints in the files of a folder."""

from __future__ import annotations

from typing import Any

import torch

from torchopt.unrolling.inner_gradients.cache import CacheEntry, GradientCache
from torchopt.unrolling.inner_gradients.gradient_vjp import Order
from torchopt.unrolling.leaves import Leaves
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, versions
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.storage import files
from torchopt.unrolling.storage.encoding import (
    Form,
    decode,
    decode_random,
    encode,
    encode_attributes,
    encode_random,
)
from torchopt.unrolling.storage.folder import Folder
from torchopt.unrolling.storage.identity import Circumstances
from torchopt.unrolling.storage.sample import sample_of

_CURE = 'delete this file to go on from the step before it, or empty the folder to begin again'


class DiskStore:
    """A store whose tokens are the numbers of steps, which name the files."""

    def __init__(
        self, folder: Folder, loop: Loop, circumstances: Circumstances, *, is_alone: bool
    ) -> None:
        self.forms = [Form.of(leaf) for leaf in loop.carry]
        self._folder = folder
        self._order: Order | None = circumstances.order
        self._attributes = circumstances.surroundings.attributes
        # The structures of inner gradients, which a file holds as a text.
        self._gradients: dict[str, tuple[Any, list[Form]]] = {}
        # Files that are not needed, once something newer is written to go on from; and, where
        # other ranks may have written less, once that has happened twice.
        self._doomed: list[int] = []
        self._doomed_before: list[int] = []
        self._is_alone = is_alone

    def put(self, checkpoint: Checkpoint) -> int:
        """Do nothing yet: the file is written when the step has run."""
        return checkpoint.number

    def settle(self, token: int, checkpoint: Checkpoint, result: StepResult | None) -> int:
        """Write the file."""
        self.learn(checkpoint)
        content: dict[str, Any] = {
            'number': checkpoint.number,
            'carry': encode(checkpoint.carry, self.forms),
            'random': encode_random(checkpoint.random),
            'gradients': self._encoded_gradients(checkpoint.cache),
        }
        if result is not None:
            content['attributes'] = encode_attributes(self._attributes.changes)
            content['sample'] = sample_of(result.carry)
            content['has_ys'] = any(isinstance(leaf, torch.Tensor) for leaf in result.y)
        files.write(self._folder.file('step', token), content)
        for doomed in (self._doomed, self._doomed_before):
            if token in doomed:
                doomed.remove(token)
        return token

    def get(self, token: int) -> Checkpoint:
        """Read the file."""
        return self.checkpoint_of(self.read(token))

    def read(self, number: int) -> dict[str, Any]:
        """Return what the file of a step holds."""
        content: dict[str, Any] = files.read(self._folder.file('step', number), _CURE)
        return content

    def checkpoint_of(self, content: dict[str, Any]) -> Checkpoint:
        """Return the checkpoint in what :meth:`read` returned."""
        carry: Leaves = decode(content['carry'], self.forms)
        random = decode_random(content['random'])
        cache = self._decoded_gradients(content['gradients'])
        return Checkpoint(content['number'], carry, random, versions(carry), cache)

    def prefetch(self, token: int) -> None:
        """Do nothing: files are read when they are needed."""

    def free(self, token: int) -> None:
        """Note that the file is not needed; :meth:`purge` removes it."""
        self._doomed.append(token)

    def finish(self) -> None:
        """Do nothing: nothing is under way."""

    def purge(self) -> None:
        """Remove files that are not needed any more: something newer is written."""
        removed = self._doomed if self._is_alone else self._doomed_before
        self._folder.remove('step', removed)
        self._doomed, self._doomed_before = [], [] if self._is_alone else self._doomed

    def learn(self, checkpoint: Checkpoint) -> None:
        """Note the structures of the inner gradients of a step that was run."""
        for entry in () if checkpoint.cache is None else _storable(checkpoint.cache):
            name = str(entry.structure)
            if name not in self._gradients:
                self._gradients[name] = (entry.structure, [Form.of(leaf) for leaf in entry.leaves])

    def _encoded_gradients(self, cache: GradientCache | None) -> list[dict[str, Any]] | None:
        if cache is None:
            return None
        return [
            {
                'structure': str(entry.structure),
                'leaves': encode(entry.leaves, self._gradients[str(entry.structure)][1]),
                'before': encode_random(entry.before),
                'after': encode_random(entry.after),
            }
            for entry in _storable(cache)
        ]

    def _decoded_gradients(self, values: list[dict[str, Any]] | None) -> GradientCache | None:
        if values is None or self._order is None:
            return None
        if any(value['structure'] not in self._gradients for value in values):
            # A killed process wrote them, and the step that was run since has others: they are
            # computed again.
            return None
        entries = []
        for value in values:
            structure, forms = self._gradients[value['structure']]
            before, after = decode_random(value['before']), decode_random(value['after'])
            leaves = decode(value['leaves'], forms)
            entries.append(CacheEntry(leaves, structure, before, after, None))
        return GradientCache.of(self._order, entries)


def _storable(cache: GradientCache) -> list[CacheEntry]:
    """Return the entries of a cache.

    Raises:
        ValueError: some were taken of parts of a batch, and depend on attributes of modules.
    """
    entries = [entry for entry in cache.entries if isinstance(entry, CacheEntry)]
    if len(entries) < len(cache.entries) or any(e.attributes is not None for e in entries):
        raise ValueError(
            'Recomputed(keep_gradients=True) cannot store gradients of micro-batches on disk: '
            'leave out keep_gradients, or micro_batches of the ModuleStep'
        )
    return entries
