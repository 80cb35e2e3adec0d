"""Versions, the requirements of the packages on each other, and changelogs fit together.

Needs no torch: it reads the metadata of what is installed, and files.
"""

import ast
import re
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

FOLDERS = {
    f'torchopt-{path.parent.name}': path.parent
    for path in Path(__file__).parents[2].glob('packages/*/pyproject.toml')
}
every_package = pytest.mark.parametrize('name', sorted(FOLDERS))


def requirements_of(name: str) -> dict[str, Requirement]:
    return {parsed.name: parsed for parsed in map(Requirement, requires(name) or [])}


@every_package
def test_requirements_admit_the_siblings_versions(name: str) -> None:
    for sibling, requirement in requirements_of(name).items():
        if sibling in FOLDERS:
            assert requirement.specifier.contains(version(sibling), prereleases=True), (
                f'{name} requires {requirement}, but the repository has {version(sibling)}'
            )


@every_package
def test_siblings_are_bounded_above(name: str) -> None:
    """A release of core may break what its siblings rely on: each says how far it goes."""
    for sibling, requirement in requirements_of(name).items():
        if sibling in FOLDERS:
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators == {'>=', '<'}, f'{name} requires {requirement}'


def test_packages_agree_about_torch() -> None:
    wanted = {name: requirements_of(name)['torch'].specifier for name in FOLDERS}
    assert len(set(wanted.values())) == 1, wanted


@every_package
def test_version_attribute_is_that_of_the_metadata(name: str) -> None:
    (source,) = FOLDERS[name].glob('src/*/__init__.py')
    (attribute,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__version__'
    )
    assert attribute == version(name)


@every_package
def test_licence_is_a_copy(name: str) -> None:
    """A link would lead out of the sdist, which pip refuses to unpack."""
    licence = FOLDERS[name] / 'LICENSE'
    assert not licence.is_symlink()
    assert licence.read_bytes() == Path(__file__).parents[2].joinpath('LICENSE').read_bytes()


@every_package
def test_changelog_begins_with_the_version(name: str) -> None:
    text = (FOLDERS[name] / 'CHANGELOG.md').read_text()
    entries = re.findall(r'^## (\S+) - (\d{4}-\d\d-\d\d)$', text, flags=re.MULTILINE)
    assert len(entries) == len(re.findall(r'^## ', text, flags=re.MULTILINE)), (
        'an entry is headed "## VERSION - YYYY-MM-DD"'
    )
    versions = [Version(number) for number, _ in entries]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == Version(version(name))
