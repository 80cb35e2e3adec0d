"""The code on the pages of the documentation runs as it stands there."""

import functools
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / 'docs'


def samples(page):
    return re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def test_every_page_with_samples_is_tested():
    assert {page.name for page in DOCS.glob('*.md') if samples(page.name)} == {
        'long-unrolls.md',
        'which-way.md',
    }


@pytest.mark.parametrize('sample', samples('long-unrolls.md'))
def test_long_unrolls(sample):
    names = {}
    exec(sample, names)
    assert names['weights'].grad.any()


def test_which_way(monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    names = {}
    (sample,) = samples('which-way.md')
    exec(sample, names)
    params = {name: param.detach() for name, param in names['net'].named_parameters()}
    tasks = [torch.randn(3, 10, 1) for _ in range(4)]
    compiled = names['meta_gradient'](params, *tasks)
    torch.testing.assert_close(compiled, torch.func.grad(names['meta_loss'])(params, *tasks))
