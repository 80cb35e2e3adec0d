"""The pages of the documentation: their code runs unchanged, and their links work."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import torchopt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(
    page for pattern in ('*.md', 'docs/**/*.md', 'packages/*/*.md') for page in ROOT.glob(pattern)
)


def samples(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def cells(page: str) -> list[str]:
    return re.findall(r'```\{code-cell\} python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def test_every_page_with_samples_is_tested() -> None:
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob('*.md') if samples(page)} == {
        'guides/long-unrolls.md',
        'guides/many-ranks.md',
        'guides/training-runs.md',
        'guides/what-raises.md',
        'index.md',
        'recipes/outer-loops.md',
        'recipes/several-ranks.md',
        'start/which-way.md',
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


def test_front_page() -> None:
    names: dict[str, Any] = {}
    (sample,) = samples('index.md')
    exec(sample, names)
    assert names['weights'].grad.all()


@pytest.mark.slow
@pytest.mark.parametrize('sample', samples('guides/long-unrolls.md'))
def test_long_unrolls(sample: str) -> None:
    names: dict[str, Any] = {}
    exec(sample, names)
    assert names['weights'].grad.any()


@pytest.mark.slow
def test_data_that_workers_load() -> None:
    """In rising order, in falling order, and after a jump."""
    names: dict[str, Any] = {}
    (sample,) = [sample for sample in samples('guides/long-unrolls.md') if 'class Loaded' in sample]
    exec(sample, names)
    loaded = names['Loaded'](names['dataset'], names['order'], workers=2)
    for number in (0, 1, 2, 3, 3, 2, 1, 7, 8, 0):
        torch.testing.assert_close(loaded(number), names['stream'].fn(number))
    found = []
    for xs in (names['stream'], names['Stream'](loaded, length=10)):
        weights = torch.ones(4, requires_grad=True)
        w, _ = torchopt.unroll(
            names['step'], torch.zeros(3), xs, weights, backward=torchopt.unrolling.Recomputed()
        )
        found.append(torch.autograd.grad(w.sum(), weights)[0])
    assert torch.equal(*found)


@pytest.mark.slow
def test_training_runs() -> None:
    names: dict[str, Any] = {}
    (sample,) = samples('guides/training-runs.md')
    exec(sample, names)
    weights, net, batch = names['weights'], names['net'], names['batch']
    seen = torch.cat([batch(number)[0] for number in range(100)]).unique()
    assert weights.grad.nonzero().flatten().equal(seen)
    # The first texts are the held-out ones: more weight on them lowers the loss.
    assert weights.grad[:8].mean() < weights.grad[8:].mean()
    assert not any(param.isnan().any() for param in net.parameters())


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures('one_rank')
def test_many_ranks() -> None:
    """With one rank; ``distributed/`` has the same recipes with several."""
    names: list[dict[str, Any]] = []
    for sample in samples('guides/many-ranks.md'):
        names.append({})
        exec(sample, names[-1])
    tasks, data, parameters, checkpoint = names
    assert all(param.grad.any() for param in tasks['meta_loss'].parameters())
    assert data['lr'].grad != 0
    assert parameters['weights'].grad.any()
    saved, loaded = (checkpoint[name].state_dict() for name in ('inner', 'other'))
    assert saved[0][0].mu['weight'].any()
    torch.testing.assert_close(loaded[0][0].mu, saved[0][0].mu)


@pytest.mark.usefixtures('one_rank')
def test_several_ranks() -> None:
    names: dict[str, Any] = {'__name__': 'several_ranks'}
    (sample,) = samples('recipes/several-ranks.md')
    exec(sample, names)
    rates = names['main'](iterations=2)
    assert (rates.log() != -3).all()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_lightning_as_an_outer_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('lightning')
    monkeypatch.chdir(tmp_path)  # where Lightning puts its logs
    names: dict[str, Any] = {}
    exec(cells('recipes/outer-loops.md')[0], names)
    (sample,) = samples('recipes/outer-loops.md')
    exec(sample, names)
    assert names['trainer'].callback_metrics['val_loss'] > 0
    assert names['trainer'].global_step == 100


@pytest.mark.compile
def test_which_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='aot_eager'))
    names: dict[str, Any] = {}
    (sample,) = samples('start/which-way.md')
    exec(sample, names)
    params = {name: param.detach() for name, param in names['net'].named_parameters()}
    tasks = [torch.randn(3, 10, 1) for _ in range(4)]
    compiled = names['meta_gradient'](params, *tasks)
    torch.testing.assert_close(compiled, torch.func.grad(names['meta_loss'])(params, *tasks))


@pytest.mark.filterwarnings('ignore:torch.distributed is disabled:UserWarning')
def test_states_with_shards() -> None:
    names: dict[str, Any] = {}
    (sample,) = samples('guides/what-raises.md')
    exec(sample, names)
    saved, loaded = names['optimizer'].state_dict(), names['other'].state_dict()
    assert saved[0][0].mu['weight'].any()
    torch.testing.assert_close(loaded[0][0].mu, saved[0][0].mu)


GAP = '…'


@functools.cache
def messages() -> list[str]:
    """All texts of the packages but docstrings, with a gap where a value is filled in."""
    found = []
    for path in sorted(ROOT.glob('packages/*/src/**/*.py')):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found += [
            _text(node)
            for node in nodes
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))
            and id(node) not in docstrings
        ]
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return ''.join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else GAP


def is_part_of(fragment: str, message: str) -> bool:
    """Tell whether a message can read as the page says; a gap of the page has a gap there."""
    pattern = f'.*{GAP}.*'.join(re.escape(part) for part in fragment.split(GAP))
    return re.search(pattern, message, re.DOTALL) is not None


ROWS = re.findall(
    r'^\| `([^`]+)` \| .+ \| .+ \|$', (DOCS / 'guides/what-raises.md').read_text(), re.M
)


def test_the_page_of_errors_lists_the_important_ones() -> None:
    lines = [
        line for line in (DOCS / 'guides/what-raises.md').read_text().splitlines() if '| `' in line
    ]
    assert len(ROWS) == len(set(ROWS)) == sum(line.startswith('| `') for line in lines)
    assert len(ROWS) >= 40


@pytest.mark.parametrize(
    ('fragment', 'fits'),
    [
        ('loss must be a scalar, got shape …', True),
        ('… does not fit …: … against …', True),
        ('… does not fit at all: … against …', False),
        ('loss must be … scalar', False),
        ('loss must be a vector', False),
    ],
)
def test_a_message_that_is_gone_is_noticed(fragment: str, fits: bool) -> None:
    assert any(is_part_of(fragment, message) for message in messages()) == fits


def test_what_the_page_of_errors_lists_can_be_raised() -> None:
    known = messages()
    gone = [row for row in ROWS if not any(is_part_of(row, message) for message in known)]
    assert not gone, f'no message reads like {gone}'
