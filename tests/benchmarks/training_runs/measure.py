"""One measurement in its own process: ``WAY STEPS DEVICE FOLDER``; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import mkdtemp

from costs import costs
from training_runs.ways import WAYS, transformer

if __name__ == '__main__':
    way, steps, device, folder = sys.argv[1:]
    run = WAYS[way]
    print(
        json.dumps(
            costs(
                transformer,
                lambda problem: run(problem, Path(mkdtemp(dir=folder))),
                int(steps),
                device,
            )
        )
    )
