"""Every file of checks on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distributed.run import FILES
from support.ranks import on_ranks


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.compile] if name.endswith('_compiled') else [])
        for name in FILES
    ],
)
def test_two_ranks_compute_what_one_process_does(name: str, tmp_path: Path) -> None:
    on_ranks(2, f'distributed.checks_{name}', tmp_path)


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
def test_two_gpus_compute_what_one_process_does(tmp_path: Path) -> None:
    on_ranks(2, 'distributed.on_gpus:main', tmp_path, backend='nccl')


def test_every_file_of_checks_is_run() -> None:
    there = {path.stem for path in Path(__file__).parent.glob('checks_*.py')}
    assert there == {f'checks_{name}' for name in FILES}
