"""The CUDA kernels run on this machine, which needs no GPU and no nvcc; see ``tests/emulation``.

``nox -s emulate`` runs all of it: every rule, under sanitizers, and planted mistakes.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emulation.__main__ import solve_all
from emulation.cases import draw
from emulation.compare import compare
from emulation.library import COMPILER, Library, build
from torchopt_accel.kernels import DTYPES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILER, reason='needs a C++ compiler'),
    pytest.mark.skipif(
        platform.machine() != 'x86_64',
        reason='the CPU kernels may be built with contracted multiplications and additions',
    ),
]


def test_kernels(tmp_path: Path) -> None:
    library = Library(build(tmp_path / 'built', ['adam', 'sgd_momentum']))
    assert solve_all(library, list(DTYPES), variants=1) == 0
    case = draw('adam', torch.float32, 'backward', (5, 0, 70), 0)
    outcome = compare(replace(case, lr='each', lr_grad=True, special=False), library)
    assert not outcome.mistakes
    assert outcome.counts.launches == 2, 'one for the step, one for all learning rates'
