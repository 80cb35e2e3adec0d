"""The folder of one run: whose it is, what it holds, and who uses it."""

from __future__ import annotations

import os
import re
import sys
import weakref
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torchopt.unrolling.storage import files

if sys.platform != 'win32':
    import fcntl

Kind: TypeAlias = Literal['step', 'ys', 'rows', 'cotangents']
"""What a file with a number holds; see :class:`torchopt.unrolling.Disk`."""

_NUMBERED = re.compile(r'(step|ys|rows|cotangents)-(\d+)\.pt')
_RUN, _END, _LOCK = 'run.pt', 'end.pt', 'lock'
_in_use: weakref.WeakValueDictionary[Path, Folder] = weakref.WeakValueDictionary()


class Folder:
    """The files of one call of ``unroll``.

    Attributes:
        is_new: Whether the folder was empty.
        run: What ``run.pt`` holds.
    """

    def __init__(self, path: Path, identity: dict[str, str], beginning: dict[str, Any]) -> None:
        """Take a folder for a run.

        Args:
            path: The folder; made if it is not there.
            identity: What the run is.
            beginning: What else ``run.pt`` is to hold if the folder is new.

        Raises:
            ValueError: it belongs to another run, or holds files of something else.
            RuntimeError: another run uses it right now.
            OSError: it cannot be read or written.
        """
        self._path = path
        self._unlock: weakref.finalize[..., Any] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = sorted(os.listdir(path))
        except OSError as error:
            raise OSError(f'unroll cannot use the folder {path}: {error}') from error
        self._require_own(names)
        self._claim()
        self.is_new = _RUN not in names
        try:
            if self.is_new:
                self.run: dict[str, Any] = {'identity': identity, **beginning}
                files.write(path / _RUN, self.run)
                return
            self.run = files.read(path / _RUN, 'empty the folder to begin again')
            self._require_same(identity)
        except BaseException:
            self.release()
            raise
        for name in names:
            if name.endswith(files.UNFINISHED):
                files.remove(path / name)

    @property
    def end(self) -> Path:
        """The file about the end of the forward pass."""
        return self._path / _END

    def file(self, kind: Kind, number: int) -> Path:
        """Return the path of a file with a number."""
        return self._path / f'{kind}-{number:08}.pt'

    def numbers(self, kind: Kind) -> list[int]:
        """Return the numbers of the files of a kind, in rising order."""
        found = (_NUMBERED.fullmatch(name) for name in os.listdir(self._path))
        return sorted(int(match[2]) for match in found if match and match[1] == kind)

    def remove(self, kind: Kind, numbers: list[int]) -> None:
        """Remove files of a kind."""
        for number in numbers:
            files.remove(self.file(kind, number))

    def forget(self, kind: Kind) -> None:
        """Remove all files of a kind."""
        self.remove(kind, self.numbers(kind)[::-1])

    def empty(self) -> None:
        """Remove all files of the run, so that it could still go on if killed on the way."""
        self.forget('cotangents')
        self.forget('rows')
        files.remove(self.end)
        self.forget('step')
        self.forget('ys')
        files.remove(self._path / _RUN)
        self.release()
        files.remove(self._path / _LOCK)

    def release(self) -> None:
        """Let others use the folder."""
        if self._unlock is not None:
            self._unlock()
        if _in_use.get(self._path.resolve()) is self:
            del _in_use[self._path.resolve()]

    def _claim(self) -> None:
        """Raise if somebody else uses the folder; from now on, others raise."""
        place = self._path.resolve()
        is_used = place in _in_use
        if not is_used and sys.platform != 'win32':
            # A lock of the process, which the system releases with it, and children don't share.
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT)
            self._unlock = weakref.finalize(self, os.close, lock)
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                is_used = True
            except OSError:  # a file system without locks
                pass
        if is_used:
            if self._unlock is not None:
                self._unlock()
            raise RuntimeError(
                f'{self._path} is used by another unroll, whose backward pass has not ended: give '
                'each call of unroll a folder of its own, named by the outer iteration'
            )
        _in_use[place] = self

    def _require_own(self, names: list[str]) -> None:
        others = [name for name in names if not _is_own(name)]
        if others or (_RUN not in names and any(map(_NUMBERED.fullmatch, names))):
            example = (others or names)[0]
            raise ValueError(
                f'{self._path} holds files that are not of an unroll, such as {example}: give '
                'Disk a folder that is new or empty'
            )

    def _require_same(self, identity: dict[str, str]) -> None:
        known: dict[str, str] = self.run['identity']
        different = [name for name in identity if known.get(name) != identity[name]]
        if different:
            details = '; '.join(
                f'{name}: {_short(known.get(name))} there, {_short(identity[name])} here'
                for name in different[:3]
            )
            raise ValueError(
                f'{self._path} belongs to another run, which differs in {len(different)} of '
                f'{len(identity)} marks ({details}): give each call of unroll a folder of its own, '
                'or empty this one if that run is not needed any more'
            )


def _is_own(name: str) -> bool:
    name = name.removesuffix(files.UNFINISHED)
    return name in (_RUN, _END, _LOCK) or _NUMBERED.fullmatch(name) is not None


def _short(text: str | None) -> str:
    return f'{text!s:.60}'
