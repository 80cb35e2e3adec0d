"""How the processes that measure are started: from here, with the threads that they may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def settings(threads: int = 1, **variables: str) -> dict[str, Any]:
    """Return the arguments of ``subprocess.run`` that let ``python -m PART.measure`` run."""
    return {
        'cwd': Path(__file__).parent,
        'env': {
            **os.environ,
            **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads)),
            'PYTHONDONTWRITEBYTECODE': '1',
            **variables,
        },
    }
