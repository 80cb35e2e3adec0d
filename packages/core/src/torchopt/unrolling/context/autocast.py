"""The autocast settings under which a step was first run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch


class Autocast(NamedTuple):
    """The autocast settings of the devices of some tensors.

    Attributes:
        settings: Device type, whether autocast is on, and its dtype.
    """

    settings: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def capture(cls, tensors: Iterable[torch.Tensor]) -> Autocast:
        """Read the settings of the CPU and of the devices of ``tensors``."""
        kinds = dict.fromkeys(['cpu', *(tensor.device.type for tensor in tensors)])
        return cls(
            tuple(
                (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in kinds
                if torch.amp.is_autocast_available(kind)
            )
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the settings in the block."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.settings:
                # The cache would hold the casts of every step until the last one is done.
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(
                        torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)
                    )
            yield


@contextmanager
def without_autocast(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Turn autocast off, in the block, on the CPU and on the devices of ``tensors``."""
    settings = Autocast.capture(tensors).settings
    with Autocast(tuple((kind, False, dtype) for kind, _, dtype in settings)).applied():
        yield
