"""Unrolls over sharded parameters give what one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.ranks import on_ranks


@pytest.mark.slow
def test_parameters_that_the_loss_gathers(tmp_path: Path) -> None:
    on_ranks(2, 'support.sharded_unrolls:gather_in_the_loss', tmp_path)
