"""The programs of docs/moving-here give the numbers of other libraries, where the pages say so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[1] / 'docs' / 'moving-here'


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location('compare', FOLDER / 'compare.py')
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compare = load()
CALL = re.compile(r"^show\('(\w+\.py)', '(\w+\.py)'(, same=False)?\)$", re.M)
SHOWN = [
    (page.name, *call)
    for page in sorted(FOLDER.glob('*.md'))
    for call in CALL.findall(page.read_text())
]


@pytest.mark.parametrize(('page', 'theirs', 'ours', 'differs'), SHOWN)
def test_programs_agree_as_the_page_says(
    page: str, theirs: str, ours: str, differs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.show(theirs, ours, same=not differs)
    shown = capsys.readouterr().out
    assert compare.records()[theirs]['output'] in shown
    assert torch.get_default_dtype() == torch.float32


def test_every_program_is_shown_and_every_record_has_its_program() -> None:
    shown = {program for _, *programs, _ in SHOWN for program in programs}
    assert shown == {path.name for path in (FOLDER / 'programs').glob('*.py')}
    assert compare.records().keys() == {theirs for _, theirs, _, _ in SHOWN}


def test_other_numbers_are_noticed() -> None:
    assert compare.agree('tensor([1.0000, -2.])', 'tensor(1.00000001, -2.0)')
    assert not compare.agree('1.0', '1.001')
    assert not compare.agree('1.0', 'nan')
    assert not compare.agree('none', 'none')
    with pytest.raises(AssertionError, match='has given'):
        compare.show('optimizers.py', 'optimizers.py', same=False)


def test_our_meta_gradients_are_those_of_finite_differences() -> None:
    for line in compare.output_of('differences.py').splitlines():
        found, expected = compare.numbers(line)
        assert found == pytest.approx(expected, abs=2e-6)


def test_names_of_this_library_exist() -> None:
    """Names in the right column of the tables, and in the text."""
    import torchopt

    for page in FOLDER.glob('*.md'):
        for row in re.findall(r'^\| .* \| (.*) \|$', page.read_text(), re.M):
            for dotted in re.findall(r'torchopt((?:\.\w+)+)', row):
                found: object = torchopt
                for name in dotted.split('.')[1:]:
                    found = getattr(found, name)
