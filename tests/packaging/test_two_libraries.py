"""torchopt-core beside the distribution ``torchopt`` (TorchOpt 0.7), which has its import name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import torchopt
from torchopt import _alone

PACKAGE = Path(torchopt.__file__).parent


def imported_from(folder: Path) -> subprocess.CompletedProcess[str]:
    code = 'import torchopt; print(torchopt.__file__)'
    environment = {**os.environ, 'PYTHONPATH': str(folder)}
    return subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize('name', _alone._FOREIGN)
def test_a_folder_with_files_of_both_is_refused(tmp_path: Path, name: str) -> None:
    mixed = shutil.copytree(PACKAGE, tmp_path / 'torchopt')
    (mixed / name).parent.mkdir(exist_ok=True)
    (mixed / name).touch()
    result = imported_from(tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f'ImportError: {mixed} holds the files of two libraries')
    assert f'such as {name}. Run "pip uninstall torchopt torchopt-core"' in last


def test_a_folder_that_torchopt_has_left_empty_is_not(tmp_path: Path) -> None:
    """``pip uninstall`` leaves folders with bytecode that it does not know of."""
    copy = shutil.copytree(PACKAGE, tmp_path / 'torchopt')
    (copy / 'diff' / '__pycache__').mkdir(parents=True)
    assert imported_from(tmp_path).stdout.strip() == str(copy / '__init__.py')
