"""The code on the page about long unrolls runs as it stands there."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / 'docs' / 'long-unrolls.md').read_text()
SAMPLES = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


def test_the_page_has_samples():
    assert len(SAMPLES) == 2


@pytest.mark.parametrize('sample', SAMPLES, ids=['functional', 'module'])
def test_every_sample_gives_a_gradient(sample):
    names = {}
    exec(sample, names)
    assert names['weights'].grad.any()
