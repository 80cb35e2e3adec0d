"""Random numbers that are not known: a step that draws them is found out."""

from __future__ import annotations

import functools
import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch

from torchopt.unrolling.context.reachable import reachable
from torchopt.unrolling.context.wording import STEP, Wording
from torchopt.unrolling.leaves import Leaves

Excuse: TypeAlias = Callable[[Callable[..., Any] | None], Any]
"""Returns a callback of ``unroll`` that may draw what it likes; None stays None."""


@contextmanager
def require_no_draws(
    step: Callable[..., Any],
    consts: Leaves,
    tensors: Iterable[torch.Tensor],
    data: Callable[..., Any] | None = None,
    wording: Wording = STEP,
) -> Iterator[Excuse]:
    """Raise if ``step`` draws, in the block, numbers that a second run would not draw again.

    Replayed are torch's own generators of the CPU and of the devices of ``tensors``. Watched are
    Python's ``random``, NumPy's global generator, torch's own generators of other CUDA devices, and
    every generator of torch, NumPy or Python that :func:`reachable` finds from ``step``, ``consts``
    and ``data``, a function that makes data. Not found is one that only an object of a C extension
    holds, or a module that no function of the step names. One that the step makes itself, from a
    seed, draws the same numbers again, and may be used.

    The states are read once before and once after the block.

    Yields:
        What excuses the draws of a callback in the block.

    Raises:
        RuntimeError: one of these generators has advanced.
    """
    devices = {tensor.device for tensor in tensors}
    watch = _Watch(list(_sources(step, [*consts, data], devices)), wording)
    yield watch.excuse
    watch.require_unchanged()


class _Source(NamedTuple):
    """A generator: what an error calls it, and its state as a value that can be compared."""

    name: str
    read: Callable[[], Any]


class _Watch:
    def __init__(self, sources: list[_Source], wording: Wording) -> None:
        self._sources = sources
        self._wording = wording
        self._states = self._read()

    def _read(self) -> list[Any]:
        return [source.read() for source in self._sources]

    def require_unchanged(self) -> None:
        for source, before, after in zip(self._sources, self._states, self._read()):
            if before != after:
                place, through, otherwise = self._wording
                raise RuntimeError(
                    f'{place} draws from {source.name}, which is not set back when {place} is run '
                    "again: draw from torch's own generators (torch.manual_seed), make the "
                    f'generator there from a seed, pass the numbers {through}, or {otherwise}'
                )

    def excuse(self, callback: Callable[..., Any] | None) -> Any:
        """Return ``callback``, with what it draws excused."""
        if callback is None:
            return None

        def excused(*args: Any) -> Any:
            self.require_unchanged()
            try:
                return callback(*args)
            finally:
                self._states = self._read()

        return excused


def _sources(
    step: Callable[..., Any], consts: Leaves, devices: set[torch.device]
) -> Iterator[_Source]:
    yield _Source("Python's random", random.getstate)
    numpy: Any = sys.modules.get('numpy')
    if numpy is not None:
        yield _Source('numpy.random', lambda: pickle.dumps(numpy.random.get_state(legacy=False)))
    known = [torch.default_generator]
    for generator in torch.cuda.default_generators if torch.cuda.is_initialized() else ():
        known.append(generator)
        if generator.device not in devices:
            name = f"torch's generator of {generator.device}, where no input is"
            yield _torch_source(name, generator)
    numpy_types = (numpy.random.Generator, numpy.random.RandomState) if numpy is not None else ()
    roots = [('', step), *(('consts', leaf) for leaf in consts)]
    for name, found in reachable(roots, (torch.Generator, random.Random, *numpy_types)):
        if any(found is generator for generator in known):
            continue
        kind = type(found)
        # torch says that its Generator is of torch._C.
        module = 'torch' if kind is torch.Generator else kind.__module__
        own = f'a {module}.{kind.__qualname__} of its own ({name})'
        if isinstance(found, torch.Generator):
            yield _torch_source(own, found)
        elif isinstance(found, random.Random):
            if not isinstance(found, random.SystemRandom):
                yield _Source(own, found.getstate)
        else:
            yield _Source(own, functools.partial(pickle.dumps, found))


def _torch_source(name: str, generator: torch.Generator) -> _Source:
    return _Source(name, lambda: generator.get_state().numpy().tobytes())
