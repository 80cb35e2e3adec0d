"""Times the fused kernels beside the composite rules; writes docs/benchmarks/kernels.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from kernels.page import markdown
from options import parse, parser
from processes import settings


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    made = parser(__doc__)
    made.add_argument('--device', default='cpu', help='or cuda')
    options = parse(made, arguments, 'kernels.md')
    threads = [1] if options.device == 'cuda' else [1, min(2, os.cpu_count() or 1)]
    records = []
    for count in dict.fromkeys(threads):
        print(f'{count} threads', file=sys.stderr)
        command = [sys.executable, '-m', 'kernels.measure', str(count), options.device]
        command.append('quick' if options.quick else 'full')
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings(count)).stdout
        records.append(json.loads(out))
    page = markdown(records, options.device)
    print(page)
    if options.output:
        options.output.write_text(page)
