"""Every task of the project: ``python -m nox -l`` lists them, ``python -m nox -s NAME`` runs one.

``python -m nox -R -s NAME`` skips the installation if the environment exists.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nox

# The folders of nox_packages and of support, wherever nox was installed.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / 'tests')]
from nox_packages import (  # noqa: E402
    ONE_ARCHITECTURE,
    PACKAGES,
    PURE,
    build_wheels,
    editable,
    install,
)

nox.needs_version = '>=2024.4.15'
nox.options.sessions = ['tests']
nox.options.reuse_venv = 'yes'

SOURCES = [f'{package}/src' for package in PACKAGES]
TYPED = [*SOURCES, 'tests/typing']
TESTS = [path.as_posix() for path in sorted(Path('packages').glob('*/tests'))] + ['tests']

# The site's tools, and where it is built.
SITE = ['ipykernel', 'latex2mathml', 'myst-nb', 'pydata-sphinx-theme', 'sphinx']
SITE += ['sphinx-copybutton', 'sphinx-design']
BUILT = 'docs/_build'

# Two workers with one thread each: more threads would only wait for each other. A worker without
# work takes some from the other, so that the longest test does not run alone at the end.
WORKERS = ('-n', '2', '--dist', 'worksteal')
ONE_THREAD = {'OMP_NUM_THREADS': '1'}
EVERYTHING = [*WORKERS, '--doctest-modules', *SOURCES, *TESTS]


@nox.session
def demo(session: nox.Session) -> None:
    """Three classic experiments in under three minutes, and a page with their pictures."""
    install(session, *editable(PURE), 'ipython', 'matplotlib', 'scikit-learn', 'scipy', 'tqdm')
    session.run('python', 'docs/gallery/demo.py', *session.posargs)


@nox.session
def gallery(session: nox.Session) -> None:
    """Classic results in full, which takes hours; ``-- NAME ... --small`` for some, in seconds."""
    install(session, *editable(PACKAGES), 'ipython', 'matplotlib', 'scikit-learn', 'scipy', 'tqdm')
    session.run('python', 'docs/gallery', *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, all its code run, and every page opened in Chromium; ``-- --serve`` serves it."""
    serve = '--serve' in session.posargs
    programs = {'dot': 'graphviz'} if serve else {'dot': 'graphviz', 'chromium': 'chromium'}
    for program, package in programs.items():
        if shutil.which(program) is None:
            session.error(f'docs needs the program {program}: install the system package {package}')
    install(session, *editable(PACKAGES), *SITE, 'pytest', 'hypothesis', 'playwright')
    install(session, 'graphviz', 'matplotlib', 'numpy', 'scikit-learn', 'scipy', 'tqdm')
    build = ['sphinx-build', '--fail-on-warning', '--keep-going', '-q', '-j', 'auto']
    build += ['-d', f'{BUILT}/doctrees', 'docs']
    session.run(*build, '-E', f'{BUILT}/html')  # so that every page runs
    if serve:
        serving = ['python', '-m', 'http.server', '--bind', '127.0.0.1', '--directory']
        session.run(*serving, f'{BUILT}/html', '8000')
        return
    session.run(*build, '-b', 'doctest', f'{BUILT}/doctest')
    session.run('pytest', 'tests/site')
    print(f'the site: {Path(BUILT, "html", "index.html").resolve()}')


@nox.session
def tests(session: nox.Session) -> None:
    """All tests and doctests; ``-- ARGUMENTS`` replaces pytest's arguments."""
    install(session, *editable(PACKAGES), 'pytest', 'pytest-cov', 'pytest-xdist', 'hypothesis')
    install(session, 'expecttest', 'packaging')
    install(session, 'numpy', 'scikit-learn', 'matplotlib', 'tqdm', 'graphviz', 'pyyaml')
    install(session, 'ipython', 'scipy')
    session.run('pytest', *(session.posargs or EVERYTHING), env=ONE_THREAD)


@nox.session(venv_backend='none')
def coverage(session: nox.Session) -> None:
    """All tests with line coverage, in nearly twice the time; shares the environment of tests."""
    session.notify('tests', ['--cov', *EVERYTHING, *session.posargs])


@nox.session(venv_backend='none')
def quick(session: nox.Session) -> None:
    """The tests that find most mistakes, in two minutes; shares the environment of tests."""
    session.notify('tests', ['-m', 'not compile and not slow', *EVERYTHING, *session.posargs])


@nox.session
def example(session: nox.Session) -> None:
    """The worked example of CONTRIBUTING.md, on a copy: style, types and all its tests."""
    install(session, *editable(PACKAGES), 'ruff', 'mypy', 'pytest', 'pytest-xdist', 'hypothesis')
    install(session, 'expecttest', 'packaging', 'numpy', 'scikit-learn', 'matplotlib', 'tqdm')
    install(session, 'ipython', 'pyyaml', 'scipy')
    session.run('python', 'tests/worked_example')


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, workflows; ``-- --fix`` mends, ``-- --hook`` also checks every commit."""
    root = Path(__file__).parent.resolve()
    git = ['git', '-C', str(root), 'rev-parse', '--show-toplevel']
    found = subprocess.run(git, capture_output=True, text=True)
    if found.returncode or Path(found.stdout.strip()).resolve() != root:
        session.error(
            f'lint checks the files that git tracks, and {root} is not the root of a git '
            'checkout. Run it in a clone, or make this folder one: git init && git add .'
        )
    install(session, 'pre-commit', 'ruff', 'clang-format', 'codespell[toml]', 'check-jsonschema')
    if '--hook' in session.posargs:
        write_hook(session, root)
    check = ['pre-commit', 'run', '--all-files']
    if '--fix' in session.posargs:
        # pre-commit returns 1 when a hook has changed a file; the checks below decide.
        session.run(*check, '--hook-stage', 'manual', success_codes=[0, 1])
    session.run(*check)


def write_hook(session: nox.Session, root: Path) -> None:
    """Let git run the hooks with the tools of this session's environment."""
    git = ['git', '-C', str(root), 'rev-parse', '--path-format=absolute', '--git-path', 'hooks']
    hook = Path(subprocess.check_output(git, text=True).strip(), 'pre-commit')
    script = f'#!/bin/sh\nPATH={shlex.quote(str(Path(session.bin).resolve()))}:$PATH\n'
    script += 'exec pre-commit run\n'
    if hook.exists() and 'pre-commit run' not in hook.read_text():
        session.error(f'{hook} exists and is not from this session: remove it first')
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(script)
    hook.chmod(0o755)


@nox.session
def types(session: nox.Session) -> None:
    """The sources, and how users see them, under mypy and pyright."""
    install(session, *editable(PACKAGES), 'mypy', 'pyright')
    session.run('mypy', *TYPED)
    session.run('pyright', *TYPED)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Accel's tests with its CPU kernels under the address and undefined-behaviour sanitizers."""
    install(session, '-e', 'packages/core', 'nanobind-backend', 'pytest', 'hypothesis')
    install(session, 'expecttest', 'numpy', 'pytest-xdist')
    settings = ['build-dir=build/sanitize', 'cmake.define.TORCHOPT_SANITIZE=ON']
    settings += ['cmake.define.TORCHOPT_CUDA=OFF']
    session.install('--no-deps', *(f'-C{setting}' for setting in settings), '-e', 'packages/accel')
    # Python itself is not built with the sanitizers: preload them. Disable leak detection: CPython
    # never frees some allocations.
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
    # Functions that torch.compile traces run no kernel.
    everything = [*WORKERS, 'packages/accel/tests', '-m', 'not compile']
    session.run('pytest', *(session.posargs or everything), env=env)


@nox.session
def emulate(session: nox.Session) -> None:
    """Accel's CUDA kernels on the CPU, as tests/emulation runs them: sanitizers, planted faults."""
    install(session, '-e', 'packages/core', 'nanobind-backend', 'pytest', 'hypothesis')
    install(session, 'pytest-xdist', 'numpy')
    # Where the CPU has such an instruction, compilers contract multiplications and additions.
    settings = ['build-dir=build/emulate', 'cmake.define.CMAKE_CXX_FLAGS=-ffp-contract=off']
    settings += ['cmake.define.TORCHOPT_CUDA=OFF']
    session.install('--no-deps', *(f'-C{setting}' for setting in settings), '-e', 'packages/accel')
    everything = [*WORKERS, 'tests/emulation']
    session.run('pytest', *(session.posargs or everything), env=ONE_THREAD)


@nox.session
def pins(session: nox.Session) -> None:
    """The packages' requirements of each other, their versions and their changelogs."""
    session.install(*editable(PACKAGES), '--no-deps', env=ONE_ARCHITECTURE)
    install(session, 'pytest', 'hypothesis', 'packaging')
    session.run('pytest', 'tests/packaging/test_pins.py')


# Warnings about the age of torch 2.4.
OLDEST_WARNS = ('FutureWarning', 'DeprecationWarning', 'UserWarning')


@nox.session
def oldest(session: nox.Session) -> None:
    """All but ``compile`` and ``newer_torch``, with the lowest torch and optree allowed."""
    session.install('torch==2.4.0', 'optree==0.13.0', 'numpy<2.3', 'nanobind-backend')
    session.install('--no-deps', '--force-reinstall', *build_wheels(session).values())
    session.install('pytest', 'pytest-xdist', 'hypothesis', 'expecttest', 'packaging')
    tests = [f'{package}/tests' for package in PACKAGES]
    ignored = [f'-Wignore::{category}' for category in OLDEST_WARNS]
    chosen = ['-m', 'not compile and not newer_torch']
    session.run('pytest', *WORKERS, *ignored, *chosen, *tests, env=ONE_THREAD)


# The newest torch with which the tests pass; constraints.txt has the one that all other sessions
# take, which need not be as new.
NEWEST = '2.14.1'


@nox.session
def newest(session: nox.Session) -> None:
    """The packages' tests, with the newest torch and the newest of everything else."""
    session.install(f'torch=={NEWEST}', 'optree', 'numpy', 'nanobind-backend', 'graphviz')
    session.install('--no-deps', '--force-reinstall', *build_wheels(session).values())
    session.install('pytest', 'pytest-xdist', 'hypothesis', 'expecttest', 'packaging')
    everything = [f'{package}/tests' for package in PACKAGES]
    everything.append('tests/test_distributed_checkpoint.py')
    session.run('pytest', *WORKERS, *(session.posargs or everything), env=ONE_THREAD)


@nox.session
def distributed(session: nox.Session) -> None:
    """All checks on 2 and on 4 ranks that torchrun starts; ``-- N ...`` for other numbers."""
    install(session, *editable(PACKAGES), 'pytest', 'numpy')
    local = ['--rdzv-backend=c10d', '--rdzv-endpoint=127.0.0.1:0', '--local-addr=127.0.0.1']
    env = {**ONE_THREAD, 'GLOO_SOCKET_IFNAME': 'lo', 'PYTHONPATH': 'tests'}
    for ranks in session.posargs or ('2', '4'):
        torchrun = ['python', '-m', 'torch.distributed.run', f'--nproc-per-node={ranks}', *local]
        session.run(*torchrun, '-m', 'distributed', env=env)


@nox.session
def crosscheck(session: nox.Session) -> None:
    """Trajectories and meta-gradients against optax under JAX."""
    install(session, *editable(PURE), 'pytest', 'hypothesis', 'numpy', 'jax', 'jaxlib', 'optax')
    session.run('pytest', 'tests/crosscheck', *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """What other libraries compute in the programs of docs/moving-here."""
    install(session, 'torch', 'pytest-benchmark')
    session.run('python', 'docs/moving-here/record.py', session.create_tmp())


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks: all, or ``-- PART``, a folder of tests/benchmarks; see ``-- --help``."""
    install(session, *editable(PACKAGES), 'pytest', 'pytest-benchmark', 'matplotlib')
    session.run('python', 'tests/benchmarks', *session.posargs)
