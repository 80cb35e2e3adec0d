"""Tags of releases: the name of a package, and its version, as in ``core-v0.2.0``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def package_of(tag: str) -> str:
    """Return the folder of the package that a tag releases, such as 'packages/core'.

    Raises:
        ValueError: If the tag names no package, or another version than the package has.
    """
    name, _, version = tag.partition('-v')
    package = f'packages/{name}'
    if not (version and (ROOT / package / 'pyproject.toml').exists()):
        raise ValueError(f'{tag!r} is not a tag like core-v0.2.0: no folder of packages/ fits')
    (source,) = (ROOT / package).glob('src/*/__init__.py')
    (stated,) = re.findall(r"^__version__ = '(.+)'$", source.read_text(), flags=re.MULTILINE)
    if version != stated:
        raise ValueError(f'the tag {tag} is wrong: {source.relative_to(ROOT)} has version {stated}')
    return package
