"""The door to every task: ``python -m nox -l`` lists them, ``python -m nox -s NAME`` runs one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nox

nox.needs_version = '>=2024.4.15'
nox.options.sessions = ['tests']
nox.options.reuse_venv = 'yes'

PACKAGES = sorted(path.parent.as_posix() for path in Path('packages').glob('*/pyproject.toml'))
SOURCES = [f'{package}/src' for package in PACKAGES]
TYPED = [*SOURCES, 'tests/typing']
TESTS = [path.as_posix() for path in sorted(Path('packages').glob('*/tests'))] + ['tests']
# What takes a compiler to build, and what does not.
COMPILED = [package for package in PACKAGES if Path(package, 'CMakeLists.txt').exists()]
PURE = [package for package in PACKAGES if package not in COMPILED]


def install(session: nox.Session, *requirements: str) -> None:
    """Install the tested versions, whatever the requirements leave open."""
    session.install('-c', 'constraints.txt', *requirements)


def editable(packages: list[str]) -> list[str]:
    """Return the arguments with which pip installs packages from where they lie."""
    return [argument for package in packages for argument in ('-e', package)]


def build_wheels(session: nox.Session) -> dict[str, str]:
    """Build a wheel of every package, each in isolation; return them by package."""
    wheels = {}
    for package in PACKAGES:
        folder = f'{session.create_tmp()}/{package}'
        session.run(
            'pip', 'wheel', '-q', '--no-deps', '-c', 'constraints.txt', '-w', folder, f'./{package}'
        )
        newest = max(Path(folder).glob('*.whl'), key=lambda path: path.stat().st_mtime)
        wheels[package] = str(newest)
    return wheels


@nox.session
def demo(session: nox.Session) -> None:
    """Meta-learn on real data: reweighted digits and MAML, with tables and plots."""
    install(session, *editable(PURE), 'scikit-learn', 'matplotlib', 'tqdm')
    session.run('python', 'docs/examples/demo.py', *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests and doctests, with line coverage; takes pytest's arguments after ``--``."""
    install(session, *editable(PACKAGES), 'pytest', 'pytest-cov', 'pytest-xdist', 'hypothesis')
    install(session, 'expecttest', 'packaging')
    install(session, 'numpy', 'scikit-learn', 'matplotlib', 'tqdm', 'graphviz')
    everything = ['-n', '2', '--cov', '--doctest-modules', *SOURCES, *TESTS]
    # One thread for each of the two workers: more would only wait for each other.
    session.run('pytest', *(session.posargs or everything), env={'OMP_NUM_THREADS': '1'})


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format; ``-- --fix`` mends both."""
    install(session, 'ruff')
    session.run('ruff', 'check', '.', *session.posargs)
    session.run('ruff', 'format', *([] if '--fix' in session.posargs else ['--check']), '.')


@nox.session
def types(session: nox.Session) -> None:
    """The sources and what users see of them, under mypy and pyright."""
    install(session, *editable(PACKAGES), 'mypy', 'pyright')
    session.run('mypy', *TYPED)
    session.run('pyright', *TYPED)


@nox.session(reuse_venv=False)
def isolated(session: nox.Session) -> None:
    """Wheels in a clean environment: core alone, with each sibling, with all of them."""
    wheels = build_wheels(session)
    core = wheels.pop('packages/core')
    siblings = {f'torchopt-{Path(package).name}': wheel for package, wheel in wheels.items()}
    check = ['python', '-I', str(Path('tests/packaging/check_installed.py').resolve())]

    install(session, core)
    session.run(*check)
    for name, wheel in siblings.items():
        install(session, wheel)
        session.run(*check, name)
        session.run('pip', 'uninstall', '-q', '-y', name)
    install(session, *siblings.values())
    session.run(*check, *siblings)


@nox.session(reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """The wheels that are published: accel's tags and symbols, and all of them installed."""
    built = build_wheels(session)
    for package in COMPILED:
        session.run('python', 'tests/packaging/check_wheel.py', built[package])
    install(session, *built.values())
    siblings = [f'torchopt-{Path(package).name}' for package in built if package != 'packages/core']
    session.run(
        'python', '-I', str(Path('tests/packaging/check_installed.py').resolve()), *siblings
    )
    session.run('python', '-I', '-m', 'torchopt_accel')


@nox.session
def sanitize(session: nox.Session) -> None:
    """Accel's tests with its CPU kernels under the address and undefined-behaviour sanitizers."""
    install(session, '-e', 'packages/core', 'nanobind-backend', 'pytest', 'hypothesis')
    install(session, 'expecttest', 'numpy', 'pytest-xdist')
    settings = ['build-dir=build/sanitize', 'cmake.define.TORCHOPT_SANITIZE=ON']
    settings += ['cmake.define.TORCHOPT_CUDA=OFF']
    session.install('--no-deps', *(f'-C{setting}' for setting in settings), '-e', 'packages/accel')
    # Python itself is not built with the sanitizers: they come first, and are told not to take
    # what it keeps to its end for leaks.
    runtimes = [
        subprocess.check_output(['c++', f'-print-file-name={name}.so'], text=True).strip()
        for name in ('libasan', 'libubsan')
    ]
    env = {
        'LD_PRELOAD': ' '.join(runtimes),
        'ASAN_OPTIONS': 'detect_leaks=0',
        'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
        'OMP_NUM_THREADS': '2',
    }
    # What the compiler of torch traces runs no kernel.
    everything = ['-n', '2', 'packages/accel/tests', '-k', 'not compile']
    session.run('pytest', *(session.posargs or everything), env=env)


@nox.session
def pins(session: nox.Session) -> None:
    """Requirements among the packages against their versions, and changelogs."""
    session.install(*editable(PACKAGES), '--no-deps')
    install(session, 'pytest', 'hypothesis', 'packaging')
    session.run('pytest', 'tests/packaging/test_pins.py')


# What torch 2.4 has not got: a compiler that reads optree's trees and lists that operators return,
# the name that tells a backward pass whether its graph is retained, state for later groups of its
# own Adagrad, and silence about its age.
OLDEST_LACKS = (
    *('compile', 'opcheck', 'internals', 'snapshots_is', 'snapshots_are', 'nodes_refuse'),
    'groups_with_hyperparameters',
)
OLDEST_WARNS = ('FutureWarning', 'DeprecationWarning', 'UserWarning')


@nox.session
def oldest(session: nox.Session) -> None:
    """Everything but compilation with the lowest torch and optree that the packages allow."""
    session.install('torch==2.4.0', 'optree==0.13.0', 'numpy<2.3', 'nanobind-backend')
    session.install('--no-deps', *build_wheels(session).values())
    session.install('pytest', 'pytest-xdist', 'hypothesis', 'expecttest', 'packaging')
    tests = [f'{package}/tests' for package in PACKAGES]
    without = ' and '.join(f'not {name}' for name in OLDEST_LACKS)
    ignored = [f'-Wignore::{category}' for category in OLDEST_WARNS]
    session.run('pytest', '-n', '2', *ignored, '-k', without, *tests, env={'OMP_NUM_THREADS': '1'})


@nox.session
def crosscheck(session: nox.Session) -> None:
    """Meta-gradients against those of optax under JAX."""
    install(session, *editable(PURE), 'pytest', 'hypothesis', 'numpy', 'jax', 'jaxlib', 'optax')
    session.run('pytest', 'tests/crosscheck', *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks beside the peers: all, or ``-- steps``, ``-- unrolls``, ``-- meta-steps``."""
    install(session, *editable(PACKAGES), 'pytest', 'pytest-benchmark', 'matplotlib')
    session.run('python', 'tests/benchmarks', *session.posargs)
