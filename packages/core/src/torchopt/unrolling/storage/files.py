"""Files that are there as a whole, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

UNFINISHED = '.unfinished'
"""Ends the name of a file while it is written."""


def write(path: Path, content: Any) -> None:
    """Write ``content`` with ``torch.save``, in one step that nothing can interrupt halfway.

    It goes to another file first, which then takes the name ``path``. What had that name stays
    until then.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    temporary = path.with_name(path.name + UNFINISHED)
    try:
        with open(temporary, 'wb') as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer hides the cause in a RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(
            f'unroll cannot write {path}: {cause}. What was written before is still good: make '
            'room, or make the folder writable, and start the program again to go on from there'
        ) from error


def read(path: Path, purpose: str) -> Any:
    """Read a file of :func:`write`.

    Args:
        path: The file.
        purpose: What to do if it cannot be read, for the error.

    Raises:
        OSError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises what its reader stumbles over
        state = 'damaged' if path.exists() else 'missing'
        raise OSError(
            f'{path} of an unroll is {state} ({_first_line(error)}): {purpose}'
        ) from error


def remove(path: Path) -> None:
    """Remove a file; one that is not there is no error."""
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let the names in ``folder`` survive a loss of power, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _first_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}'
