"""Reads the changes that CONTRIBUTING.md tells, and applies them.

A fenced ``python`` block that begins with a comment ``# PATH`` is a new file. A ``diff`` block
begins with ``+++ PATH``; its lines without a ``+`` must stand in that file, one after the other, in
exactly one place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'CONTRIBUTING.md'
_FENCE = re.compile(r'^```(python|diff)\n(.*?)^```$', re.DOTALL | re.MULTILINE)


class NewFile(NamedTuple):
    """A file that the page shows whole."""

    path: str
    text: str

    def apply(self, root: Path) -> None:
        target = root / self.path
        if target.exists():
            raise ValueError(f'{self.path} exists: CONTRIBUTING.md should show an unused name')
        target.write_text(self.text)


class Insertion(NamedTuple):
    """Lines that the page adds to a file, as (is new, line) with the lines around them."""

    path: str
    lines: tuple[tuple[bool, str], ...]

    def apply(self, root: Path) -> None:
        target = root / self.path
        before = ''.join(line for is_new, line in self.lines if not is_new)
        after = ''.join(line for _, line in self.lines)
        lines = re.compile(f'^{re.escape(before)}', re.MULTILINE)
        text, places = lines.subn(lambda _: after, target.read_text())
        if places != 1:
            raise ValueError(
                f'{self.path} must have these lines of CONTRIBUTING.md in exactly one place, not '
                f'in {places}:\n{before}'
            )
        target.write_text(text)


def changes(page: str) -> list[NewFile | Insertion]:
    """Return the changes that a page tells, in its order.

    Raises:
        ValueError: a block does not name its file, or a line of a diff has no mark.
    """
    found: list[NewFile | Insertion] = []
    for language, block in _FENCE.findall(page):
        head, body = block.split('\n', 1)
        mark = '# ' if language == 'python' else '+++ '
        path = head.removeprefix(mark)
        if path == head or ' ' in path:
            raise ValueError(f'a {language} block must begin with {mark}PATH, got {head!r}')
        if language == 'python':
            found.append(NewFile(path, body))
            continue
        lines = body.splitlines(keepends=True)
        for line in lines:
            if line[0] not in ' +':
                raise ValueError(f'a line of a diff begins with a space or a +, got {line!r}')
        found.append(Insertion(path, tuple((line[0] == '+', line[1:]) for line in lines)))
    return found
