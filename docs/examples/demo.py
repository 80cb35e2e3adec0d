"""Short versions of two examples, one after the other; run by ``nox -s demo``."""

from __future__ import annotations

from pathlib import Path

import maml_sinusoid
import reweight_digits
import torch

OUTPUT = Path('demo-output')

if __name__ == '__main__':
    torch.set_num_threads(1)  # the networks are too small to share among threads
    reweight_digits.run(seeds=5, output=OUTPUT)
    maml_sinusoid.run(iterations=3000, output=OUTPUT)
