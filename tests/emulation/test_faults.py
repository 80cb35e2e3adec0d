"""Every planted mistake is found, and found for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation.child import solve_in_child
from emulation.faults import FAULTS, Fault
from emulation.library import build


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.what)
def test_is_found(fault: Fault, tmp_path: Path) -> None:
    fault.plant(tmp_path / 'csrc')
    library = build(tmp_path / 'built', [fault.rule], fault.sanitizers, csrc=tmp_path / 'csrc')
    status, output = solve_in_child(library, fault.sanitizers, '--dtype', 'float32')
    print(output)
    assert status != 0
    assert fault.found in output
