"""All rules, dtypes and directions under the sanitizers: as on the CPU, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation.child import solve_in_child
from emulation.library import build
from emulation.translate import rule_names

# Parts of about the same length, for several workers.
PARTS = [rule_names()[first::4] for first in range(4)]


# Races hardly depend on the numbers, and take longer to look for.
@pytest.mark.parametrize(('sanitizers', 'variants'), [('address,undefined', 7), ('thread', 1)])
@pytest.mark.parametrize('rules', PARTS, ids=' '.join)
def test_all_cases(rules: list[str], sanitizers: str, variants: int, tmp_path: Path) -> None:
    library = build(tmp_path / 'built', rules, sanitizers)
    status, output = solve_in_child(library, sanitizers, '--variants', str(variants))
    print(output)
    assert status == 0


def test_fibers_without_assembly(tmp_path: Path) -> None:
    # Without sanitizers: the address sanitizer cleans a whole stack at every switch.
    library = build(tmp_path / 'built', ['adam'], portable=True)
    status, output = solve_in_child(library, '', '--variants', '1', '--dtype', 'float64')
    print(output)
    assert status == 0
