"""The pages of the documentation: their code runs as it stands there, and their links lead on."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(
    page for pattern in ('*.md', 'docs/**/*.md', 'packages/*/*.md') for page in ROOT.glob(pattern)
)


def samples(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def test_every_page_with_samples_is_tested() -> None:
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob('*.md') if samples(page)} == {
        'long-unrolls.md',
        'which-way.md',
    }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    prose = re.sub(r'```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', prose):
        if target.startswith(('http:', 'https:')):
            continue
        path, _, heading = target.partition('#')
        file = (page.parent / path) if path else page
        assert file.exists(), f'{target} is not there'
        assert not heading or heading in headings(file), f'{target}: no such heading'


def headings(page: Path) -> set[str]:
    """Return the anchors that Markdown renderers make of a page's headings."""
    titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.slow
@pytest.mark.parametrize('sample', samples('long-unrolls.md'))
def test_long_unrolls(sample: str) -> None:
    names: dict[str, Any] = {}
    exec(sample, names)
    assert names['weights'].grad.any()


@pytest.mark.compile
def test_which_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    names: dict[str, Any] = {}
    (sample,) = samples('which-way.md')
    exec(sample, names)
    params = {name: param.detach() for name, param in names['net'].named_parameters()}
    tasks = [torch.randn(3, 10, 1) for _ in range(4)]
    compiled = names['meta_gradient'](params, *tasks)
    torch.testing.assert_close(compiled, torch.func.grad(names['meta_loss'])(params, *tasks))
