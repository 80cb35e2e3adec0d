"""One measurement in its own process: ``PROBLEM LIBRARY WAY STEPS DEVICE``; prints JSON."""

from __future__ import annotations

import json
import sys

from costs import costs
from unrolls.problems import PROBLEMS
from unrolls.ways import WAYS

if __name__ == '__main__':
    problem, library, way, steps, device = sys.argv[1:]
    print(json.dumps(costs(PROBLEMS[problem], WAYS[library, way], int(steps), device)))
