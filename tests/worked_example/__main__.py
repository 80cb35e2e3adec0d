"""Add the optimizer of CONTRIBUTING.md to a copy of the repository, and check the copy.

Style, types, and every test that runs over the registry, for the new optimizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from page import PAGE, ROOT, NewFile, changes

LEFT_OUT = shutil.ignore_patterns('.*', '__pycache__', 'build', 'dist', 'demo-output')
SOURCES = ['packages/core/src', 'packages/meta/src']
TESTS = ['packages/core/tests', 'packages/meta/tests', 'packages/accel/tests', 'tests']


def main() -> None:
    steps = changes(PAGE.read_text())
    (rule,) = (step for step in steps if isinstance(step, NewFile))
    name = Path(rule.path).stem
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'copy'
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        for step in steps:
            step.apply(copy)
        _check(copy, name)
    print(f'CONTRIBUTING.md adds {name}, and all its checks pass')


def _check(copy: Path, name: str) -> None:
    sources = [str(path) for path in sorted(copy.glob('packages/*/src'))]
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(sources),
        'OMP_NUM_THREADS': '1',
        'MYPY_CACHE_DIR': str(ROOT / '.mypy_cache/worked_example'),
    }

    def run(*command: str) -> None:
        print('$', *command, flush=True)
        result = subprocess.run([sys.executable, '-m', *command], cwd=copy, env=environment)
        if result.returncode:
            sys.exit(f'{name} does not pass: python -m {" ".join(command)}')

    where = 'import torchopt, torchopt_meta; print(torchopt.__file__, torchopt_meta.__file__)'
    found = subprocess.check_output([sys.executable, '-c', where], env=environment, text=True)
    assert found.count(str(copy)) == 2, f'the tests would run on {found}'

    run('ruff', 'check', '.')
    run('ruff', 'format', '--check', '.')
    run('mypy', *SOURCES, 'tests/typing')
    # The names, which are not tested one by one, and then what carries the optimizer's name.
    run('pytest', '-q', '-n', '2', 'tests/packaging/test_one_face.py')
    run('pytest', '-q', '-n', '2', '-k', name, *TESTS)


if __name__ == '__main__':
    main()
