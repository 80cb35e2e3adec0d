"""The code samples of the READMEs run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = [ROOT / 'README.md', *sorted(ROOT.glob('packages/*/README.md'))]
SAMPLES = [
    pytest.param(code, id=f'{path.relative_to(ROOT)}:{position}')
    for path in READMES
    for position, code in enumerate(re.findall(r'```python\n(.*?)```', path.read_text(), re.DOTALL))
]


def test_every_readme_has_a_sample() -> None:
    assert len(SAMPLES) >= len(READMES)


@pytest.mark.parametrize('code', SAMPLES)
def test_sample_runs(code: str) -> None:
    exec(compile(code, 'README.md', 'exec'), {'__name__': '__main__'})
