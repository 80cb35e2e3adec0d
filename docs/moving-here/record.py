"""Writes ``peers.jsonl``: what other libraries compute in the programs of these pages.

``nox -s peers`` runs it. Each library gets an environment of its own, because one of them has this
library's import name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / 'tests' / 'benchmarks'))

from environments import python_of  # noqa: E402
from libraries import LIBRARIES  # noqa: E402
from meta_steps.ways import JAX  # noqa: E402

PROGRAMS = {
    'torchopt 0.7.3': ('maml.py', 'optimizers.py', 'differences.py'),
    'higher 0.2.1': ('weights_higher.py', 'eps_higher.py'),
    'learn2learn 0.2.0': ('maml_learn2learn.py',),
    JAX.name: ('rate_optax.py',),
}


def main(folder: Path) -> None:
    """Run every program in its library's environment below ``folder``."""
    lines = []
    for library in (*LIBRARIES, JAX):
        for program in PROGRAMS.get(library.name, ()):
            command = [python_of(library, folder), HERE / 'compare.py', program]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            lines.append(json.dumps({'library': library.name, **json.loads(printed)}))
            print(lines[-1])
    (HERE / 'peers.jsonl').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
