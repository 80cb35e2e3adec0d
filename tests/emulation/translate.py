"""CUDA sources as C++, for what macros cannot express.

- ``f<<<blocks, threads, shared, stream>>>(arguments)`` becomes a call;
- a shared variable becomes a reference into the memory of the block;
- a parameter of the whole grid becomes a reference, or every thread would copy it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

CSRC = Path(__file__).parents[2] / 'packages/accel/csrc'

_RULE = re.compile(r'TORCHOPT_RULE\((\w+), \w+\)\n')
_REPLACEMENTS = [
    (re.compile(r'(\w+)<<<(.+?)>>>', re.DOTALL), r'emulation::launch(\1, \2)'),
    (
        re.compile(r'__shared__ (?:alignas\((\w+)\) )?([\w ]+) (\w+)(\[[^;]+\]);'),
        lambda found: (
            f'auto& {found[3]} = emulation::shared<{found[2]}{found[4]}>'
            f'(__FILE__, __LINE__, alignof({found[1] or found[2]}));'
        ),
    ),
    (
        re.compile(r'const __grid_constant__ ([\w:]+(?:<[^()]+>)?) (\w+)(?=[,)])'),
        r'const \1& \2',
    ),
]
_LEFT = re.compile(r'<<<|__shared__|__grid_constant__')


def translate(text: str) -> str:
    """Return the C++ of a CUDA source, with the same lines.

    Raises:
        ValueError: something is written in a way that is not known here.
    """
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    left = _LEFT.search(text)
    if left:
        line = text[: left.start()].count('\n') + 1
        raise ValueError(f'{left[0]} in line {line}: teach emulation/translate.py this way')
    return text


def translated_tree(folder: Path, rules: Collection[str], csrc: Path = CSRC) -> None:
    """Write the sources with translated CUDA code and only some rules into ``folder``.

    Raises:
        ValueError: there is no such rule, or CUDA code is written in an unknown way.
    """
    missing = set(rules) - set(rule_names(csrc))
    if missing:
        raise ValueError(f'rules.def has no {", ".join(sorted(missing))}')
    shutil.copytree(csrc, folder)
    for path in (folder / 'cuda').iterdir():
        path.write_text(translate(path.read_text()))
    definitions = folder / 'rules.def'
    kept = [line[0] for line in _RULE.finditer(definitions.read_text()) if line[1] in rules]
    definitions.write_text(''.join(kept))


def rule_names(csrc: Path = CSRC) -> list[str]:
    """Return the names of all rules, in the order of their numbers."""
    return [line[1] for line in _RULE.finditer((csrc / 'rules.def').read_text())]
