"""Data by the number of a step: made when the step needs them, and again when it is run again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from torchopt import pytree
from torchopt.authoring.describe import describe
from torchopt.authoring.torch_internals import transforming
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.hashing import update_with
from torchopt.unrolling.leaves import Leaves, flatten, tensors_of

_Kind: TypeAlias = tuple[torch.Size, torch.dtype, torch.device] | None
# Of a batch on the CPU so much of each tensor is hashed, whatever its number.
_MOST_ELEMENTS = 4096


@dataclass(frozen=True)
class Stream:
    """``xs`` of :func:`torchopt.unroll` that are not in memory: step n receives ``fn(n)``.

    ``fn`` is called when a step runs, and again with the same number when the step is run again, in
    another order: it must return the same each time. This is checked, by hashes: of the first
    batch, and on the CPU of the beginning of every other. No gradient flows into the batches.

    Attributes:
        fn: ``fn(number)`` returns a tree of tensors, of the same structure, shapes and dtypes for
            every number from 0. It draws no numbers from torch's own generators: a step that is
            run again begins with the state that it had after its data came. Let ``fn`` make a
            generator, ``torch.Generator().manual_seed(number)``.
        length: Number of steps; None: as many as ``length`` or ``until`` of ``unroll`` say.

    Raises:
        TypeError: ``fn`` is not a function.
        ValueError: ``length`` is negative.

    Example:
        >>> import torch, torchopt
        >>> from torchopt.unrolling import Stream
        >>> data = torch.arange(6.0)
        >>> stream = Stream(lambda number: data[2 * number : 2 * number + 2], length=3)
        >>> torchopt.unroll(lambda c, x, k: (c + x.sum(), None), torch.tensor(0.0), stream)
        (tensor(15.), None)
    """

    fn: Callable[[int], Any]
    length: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f'Stream takes a function of a number, got {describe(self.fn)}')
        is_number = isinstance(self.length, int) and not isinstance(self.length, bool)
        if self.length is not None and (not is_number or self.length < 0):
            raise ValueError(f'length must be an integer of at least 0, got {self.length!r}')


class Batches:
    """The batches of a :class:`Stream` in one call of ``unroll``, checked.

    Attributes:
        fn: The user's function.
        structure: The tree of a batch.
        example: A batch with None for every leaf.
        count: Number of tensors in a batch.
    """

    def __init__(self, fn: Callable[[int], Any]) -> None:
        self.fn = fn
        self._is_differentiated = torch.is_grad_enabled()
        self._seen: dict[int, bytes] = {}
        self._devices: set[torch.device] = set()
        leaves, self.structure = self._called(0)
        self.example: Any = pytree.tree_unflatten(self.structure, [None for _ in leaves])
        self._kinds = _kinds_of(0, leaves)
        self._devices = {kind[2] for kind in self._kinds if kind is not None}
        self.count = len(tensors_of(leaves))
        self._remember(0, leaves)
        # Until step 0 asks for it.
        self._first: Leaves | None = leaves

    @property
    def digest(self) -> str:
        """A hash of the first batch; empty where it was not checked."""
        return self._seen.get(0, b'').hex()

    def leaves(self, number: int) -> Leaves:
        """Return the leaves of the batch of a step.

        Raises:
            TypeError: a leaf is neither a tensor nor None, or requires grad.
            ValueError: the batch is not like the first one.
            RuntimeError: it is not what it was before, or random numbers were drawn for it.
        """
        if number == 0 and self._first is not None:
            leaves, self._first = self._first, None
            return leaves
        leaves, structure = self._called(number)
        kinds = _kinds_of(number, leaves)
        if structure != self.structure or kinds != self._kinds:
            raise ValueError(
                f'the fn of Stream returns another kind of batch for step {number} than for step '
                f'0: {structure} of {kinds} instead of {self.structure} of {self._kinds}. '
                'Structure, shapes, dtypes and devices must stay the same: leave out a last batch '
                'that is smaller, or fill it up'
            )
        self._remember(number, leaves)
        return leaves

    def _called(self, number: int) -> tuple[Leaves, pytree.PyTreeSpec]:
        if torch.compiler.is_compiling():
            return flatten(self.fn(number))
        elsewhere = [torch.empty(0, device=device) for device in self._devices]
        before = RandomState.capture(elsewhere)
        # The loop runs without grad mode, in which no result would require grad.
        with torch.set_grad_enabled(self._is_differentiated):
            result = flatten(self.fn(number))
        if not RandomState.capture(elsewhere).equals(before):
            raise RuntimeError(
                f"the fn of Stream draws from torch's own generators for step {number}, so that "
                'it would draw other numbers when the step is run again: let it make a generator, '
                'torch.Generator().manual_seed(number), or draw in the step'
            )
        return result

    def _remember(self, number: int, leaves: Leaves) -> None:
        """Compare a batch with what it was before."""
        if torch.compiler.is_compiling() or transforming():
            return
        found = hashlib.blake2b(digest_size=8)
        for leaf in tensors_of(leaves):
            if type(leaf) is not torch.Tensor or leaf.device.type == 'meta':
                continue
            if number == 0:
                update_with(found, leaf)
            elif leaf.device.type == 'cpu':  # elsewhere it would wait for the device
                update_with(found, leaf.reshape(-1)[:_MOST_ELEMENTS])
        if self._seen.setdefault(number, found.digest()) != found.digest():
            raise RuntimeError(
                f'the fn of Stream returns another batch for step {number} than before. Steps are '
                'run again, in another order: it must depend on the number alone, not on a '
                'position in an iterator, a shuffle, or data that change'
            )


def _kinds_of(number: int, leaves: Leaves) -> list[_Kind]:
    """Return what all batches have in common.

    Raises:
        TypeError: a leaf is neither a tensor nor None, or requires grad.
    """
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            raise TypeError(
                f'the fn of Stream must return tensors, got {describe(leaf)} for step {number}'
            )
        if leaf is not None and leaf.requires_grad:
            raise TypeError(
                f'the fn of Stream returns {describe(leaf)}, that requires grad, for step '
                f'{number}, and its gradient would be lost: detach it, pass what is learned '
                'through consts and use it in the step, or give xs as tensors'
            )
    return [None if leaf is None else (leaf.shape, leaf.dtype, leaf.device) for leaf in leaves]
