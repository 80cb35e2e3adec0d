"""Says that something compiles, where that takes long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger('torchopt')
_PATIENCE = 10.0  # seconds


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Log that the block compiles: its beginning and end as INFO, and once if it takes long.

    That one is a WARNING, which Python shows unless it is told otherwise, because a program that
    says nothing for minutes looks like one that hangs.

    Args:
        what: Name of what is compiled.
    """
    LOGGER.info('compiling %s', what)
    begin = time.monotonic()
    late = threading.Timer(
        _PATIENCE,
        LOGGER.warning,
        (
            'torchopt has been compiling %s for %.0f s, and goes on. This happens once for each '
            "kind of arguments, and torch keeps the result on disk; logging.getLogger('torchopt')"
            ".setLevel('ERROR') hides this message.",
            what,
            _PATIENCE,
        ),
    )
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
    LOGGER.info('compiled %s in %.1f s', what, time.monotonic() - begin)
