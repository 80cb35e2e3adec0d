"""The workflows of .github call sessions that exist, over the range that the packages allow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.releases import package_of

ROOT = Path(__file__).parents[2]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob('.github/workflows/*.yml')
}
PACKAGES = sorted(path.parent.name for path in ROOT.glob('packages/*/pyproject.toml'))
NOX = '\n'.join(path.read_text() for path in sorted(ROOT.glob('nox*.py')))
every_package = pytest.mark.parametrize('package', PACKAGES)


def steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[workflow]['jobs'].values() for step in job.get('steps', ())]


def matrix() -> list[dict[str, str]]:
    """What the tests run: sessions, and the version of Python."""
    rows: list[dict[str, str]] = WORKFLOWS['tests']['jobs']['nox']['strategy']['matrix']['include']
    return rows


def sessions_in(workflow: str) -> list[str]:
    found = []
    for command in (step['run'] for step in steps(workflow) if 'run' in step):
        for sessions in re.findall(r'nox -s ([^\n]+)', command):
            found += sessions.partition(' -- ')[0].split() if '{{' not in sessions else []
    return found + [
        name for row in matrix() if workflow == 'tests' for name in row['sessions'].split()
    ]


def packaging_of(package: str) -> str:
    return (ROOT / 'packages' / package / 'pyproject.toml').read_text()


@pytest.mark.parametrize('workflow', WORKFLOWS)
def test_sessions_exist(workflow: str) -> None:
    named = sessions_in(workflow)
    existing = re.findall(r'@nox\.session.*?\ndef (\w+)\(', NOX)
    assert named
    assert [name for name in named if name not in existing] == []


@pytest.mark.parametrize('workflow', WORKFLOWS)
def test_commands_are_those_of_a_person(workflow: str) -> None:
    """Everything else is in a session, where it can be run and tried."""
    commands = [step['run'] for step in steps(workflow) if 'run' in step]
    allowed = r'python -m (nox -s|pip install nox)|sudo apt-get'
    assert [command for command in commands if not re.match(allowed, command)] == []


@pytest.mark.parametrize('workflow', WORKFLOWS)
def test_actions_are_from_github_or_the_index(workflow: str) -> None:
    used = [step['uses'] for step in steps(workflow) if 'uses' in step]
    pinned = r'actions/[a-z-]+@v\d+|pypa/gh-action-pypi-publish@release/v1'
    assert [action for action in used if not re.fullmatch(pinned, action)] == []


@every_package
def test_tests_run_at_the_ends_of_the_range_of_python(package: str) -> None:
    allowed = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', packaging_of(package))
    (lowest,) = re.findall(r'requires-python = ">=3\.(\d+)"', packaging_of(package))
    tested = [int(row['python'].removeprefix('3.')) for row in matrix()]
    assert [int(minor) for minor in allowed] == [*range(int(lowest), max(tested) + 1)]
    assert min(tested) == int(lowest)
    both = {row['python'] for row in matrix() if row['sessions'] == 'tests'}
    assert {f'3.{min(tested)}', f'3.{max(tested)}'} <= both


def test_wheels_are_tried_with_the_ends_of_the_range_of_python() -> None:
    (build,) = re.findall(r'^build = (\[.*\])$', packaging_of('accel'), flags=re.MULTILINE)
    minors = sorted({int(row['python'].removeprefix('3.')) for row in matrix()})
    assert {int(minor) for minor in re.findall(r'cp3(\d+)-', build)} == {minors[0], minors[-1]}


@every_package
def test_tests_run_with_the_lowest_torch_and_optree(package: str) -> None:
    assert {'oldest', 'tests', 'newest'} <= set(sessions_in('tests'))
    for name, lowest in re.findall(r'"(torch|optree)>=([\d.]+)"', packaging_of(package)):
        assert re.search(rf"'{name}=={re.escape(lowest)}(\.0)?'", NOX), f'oldest: {name} {lowest}'


def test_every_package_has_a_tag() -> None:
    triggers = WORKFLOWS['release'][True]  # YAML 1.1 takes the key "on" for a boolean
    assert triggers['push']['tags'] == [f'{package}-v*' for package in PACKAGES]
    assert [step for step in steps('release') if 'release -- "$TAG"' in step.get('run', '')]


@every_package
def test_a_tag_has_the_version_of_its_package(package: str) -> None:
    (source,) = (ROOT / 'packages' / package).glob('src/*/__init__.py')
    (version,) = re.findall(r"^__version__ = '(.+)'$", source.read_text(), flags=re.MULTILINE)
    assert package_of(f'{package}-v{version}') == f'packages/{package}'
    with pytest.raises(ValueError, match=f'has version {re.escape(version)}$'):
        package_of(f'{package}-v99.0')


@pytest.mark.parametrize(
    'tag', ['v0.2.0', 'torch-v0.2.0', 'core-0.2.0', 'core-v', '../core-v1', '']
)
def test_other_tags_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match='is not a tag like core'):
        package_of(tag)
