"""The files that a hosting site reads, and what the README promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib.image
import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
FORMS = sorted(ROOT.glob('.github/ISSUE_TEMPLATE/*.yml'))
PAGES = [
    page
    for pattern in ('*.md', '.github/*.md', 'docs/**/*.md', 'packages/*/*.md')
    for page in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize('form', [form for form in FORMS if form.name != 'config.yml'], ids=str)
def test_issue_forms_have_what_the_site_asks_for(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content.keys() <= {'name', 'description', 'labels', 'body'}
    assert content['name'] and content['description']
    ids = [field['id'] for field in content['body']]
    assert len(ids) == len(set(ids)) > 0
    for field in content['body']:
        assert field.keys() <= {'type', 'id', 'attributes', 'validations'}
        assert field['type'] in {'textarea', 'checkboxes'}
        assert field['attributes']['label']
    assert any(field.get('validations', {}).get('required') for field in content['body'])


def test_there_are_forms_for_bugs_features_and_questions() -> None:
    assert {form.stem for form in FORMS} == {'bug', 'config', 'feature', 'question'}
    assert yaml.safe_load((ROOT / '.github/ISSUE_TEMPLATE/config.yml').read_text())


def test_citation() -> None:
    """Required and known keys of version 1.2.0 of the Citation File Format."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['cff-version'] == '1.2.0'
    required = {'cff-version', 'message', 'title', 'authors'}
    assert required <= citation.keys() <= {*required, 'abstract', 'keywords', 'license', 'type'}
    assert citation['authors'] == [{'name': 'The torchopt developers'}]
    for package in ROOT.glob('packages/*/pyproject.toml'):
        assert f'license = "{citation["license"]}"' in package.read_text()


def test_the_changelog_leads_to_those_of_the_packages() -> None:
    listed = re.findall(r'\((packages/\w+/CHANGELOG\.md)\)', (ROOT / 'CHANGELOG.md').read_text())
    there = [path.relative_to(ROOT).as_posix() for path in ROOT.glob('packages/*/CHANGELOG.md')]
    assert sorted(listed) == sorted(there)


def test_the_readme_is_under_two_screens() -> None:
    assert len(README.splitlines()) <= 70


def test_the_picture_of_the_readme_reads_on_light_and_dark() -> None:
    (path,) = re.findall(r'!\[[^]]+\]\((.+?)\)', README)
    *_, opacity = matplotlib.image.imread(ROOT / path)[0, 0]
    assert opacity == 0, 'the background is transparent'


def test_figures_of_the_readme_are_in_the_pages_that_it_names() -> None:
    claims = re.findall(r'((?:[\d.,]+ (?:MiB|ms)[^(]*)+)\(\[measured\]\((.+?)\)\)', README)
    assert len(claims) == 2
    for text, page in claims:
        figures = re.findall(r'[\d.,]+ (?:MiB|ms)', text)
        assert len(figures) >= 2
        measured = (ROOT / page).read_text()
        assert [figure for figure in figures if figure not in measured] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert 'python -m pip install nox && python -m nox -s tests\n' in README
    assert 'python -m nox -s tests' in (ROOT / '.ci/run').read_text()


def test_sessions_that_pages_name_exist() -> None:
    functions = r'@nox\.session.*?\ndef (\w+)\('
    text = '\n'.join(path.read_text() for path in ROOT.glob('nox*.py'))
    sessions = set(re.findall(functions, text))
    named = {
        (page.name, name)
        for page in PAGES
        for command in re.findall(r'nox -s ([\w -]+)', page.read_text())
        for name in shlex.split(command.partition(' --')[0])
        if re.match(r'python -m nox|nox -s', f'nox -s {command}')
    }
    assert len(named) > 20
    assert {(page, name) for page, name in named if name not in sessions} == set()
