"""The worked example of CONTRIBUTING.md fits the repository; the session ``example`` runs it."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from worked_example.page import PAGE, ROOT, Insertion, NewFile, changes

STEPS = changes(PAGE.read_text())
FILE = 'packages/core/src/torchopt/registry.py'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that the example changes, and folders for the files that it adds."""
    for step in STEPS:
        target = tmp_path / step.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(step, Insertion):
            shutil.copy(ROOT / step.path, target)
    return tmp_path


def test_the_example_can_be_applied_once(copy: Path) -> None:
    for step in STEPS:
        step.apply(copy)
    for step in STEPS:
        if step.path.endswith('.py'):
            ast.parse((copy / step.path).read_text())
        with pytest.raises(ValueError, match=step.path):
            step.apply(copy)


def test_the_example_has_a_rule_and_a_line_in_every_list() -> None:
    assert [type(step) for step in STEPS].count(NewFile) == 1
    assert {Path(step.path).name for step in STEPS if isinstance(step, Insertion)} == {
        '__init__.py',
        'transform.py',
        'registry.py',
        'classes.py',
        'optimizers.md',
    }


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        ('```python\nimport torch\n```', "a python block must begin with '?# PATH"),
        ('```diff\n+x = 1\n```', r'a diff block must begin with \+\+\+ PATH'),
        (f'```diff\n+++ {FILE}\n-OPTIMIZERS\n```', 'a line of a diff begins with a space or a +'),
    ],
)
def test_a_block_that_cannot_be_applied_is_refused(block: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changes(block)


@pytest.mark.parametrize('line', ['no such line', ')'])
def test_lines_around_a_change_must_stand_in_one_place(copy: Path, line: str) -> None:
    (step,) = changes(f'```diff\n+++ {FILE}\n {line}\n+x = 1\n```')
    before = (copy / FILE).read_text() + ')\n'
    (copy / FILE).write_text(before)
    with pytest.raises(ValueError, match='in exactly one place'):
        step.apply(copy)
    assert (copy / FILE).read_text() == before
