"""Refuses to be imported from a folder that also holds another library's files.

The distribution ``torchopt`` (TorchOpt 0.7) has the same import name. Where pip installs both, they
share a folder, in which packages of the one (``transform/``) hide modules of the other
(``transform.py``): a program would get a mixture of two libraries without a word.
"""

from __future__ import annotations

from pathlib import Path

# Files of TorchOpt that no version of this library has.
_FOREIGN = ('diff/__init__.py', 'version.py')


def check(folder: Path) -> None:
    """Check that no files of TorchOpt lie in the folder of this library.

    Args:
        folder: Where ``torchopt/__init__.py`` is.

    Raises:
        ImportError: There are some; the message says how to get rid of the mixture.
    """
    found = [name for name in _FOREIGN if (folder / name).exists()]
    if found:
        raise ImportError(
            f'{folder} holds the files of two libraries: of torchopt-core, and of the distribution '
            f'torchopt (TorchOpt 0.7), such as {found[0]}. Run '
            '"pip uninstall torchopt torchopt-core", then install torchopt-core again'
        )


check(Path(__file__).parent)
