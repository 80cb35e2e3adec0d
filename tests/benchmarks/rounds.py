"""Peak memory and time of many ways and numbers of steps: measured, extrapolated, or left out."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from memory import MIB
from processes import extrapolated
from report import relative

WayT = TypeVar('WayT')

SHORT = 64
"""Numbers of steps below this are measured several times."""


class Measured(NamedTuple):
    """One measurement; if ``mebibytes`` is extrapolated, the other fields are None.

    Attributes:
        mebibytes: Peak memory.
        seconds: Time.
        gradient: The first entries of the meta-gradient.
        disk: Most mebibytes in files at a time.
    """

    mebibytes: float
    seconds: float | None = None
    gradient: list[float] | None = None
    disk: float | None = None


class Result(NamedTuple):
    """What a page shows of a measurement, or of the median of several.

    Attributes:
        mebibytes: Peak memory.
        seconds: Time; None if the memory is extrapolated.
        difference: Relative difference of the meta-gradient from the reference; None if one of the
            two was not measured.
        disk: Most mebibytes in files at a time.
    """

    mebibytes: float
    seconds: float | None
    difference: float | None
    disk: float | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Result:
        """Return the result that a record holds; one of an older page has no ``disk``."""
        return cls(**{name: record.get(name) for name in cls._fields})

    def __str__(self) -> str:
        if self.seconds is None:
            return f'*{self.mebibytes:,.0f} MiB*'
        files = f' + {self.disk:,.0f}' if self.disk else ''
        return f'{self.mebibytes:,.0f}{files} MiB, {self.seconds:.3g} s'


def measured(
    ways: Sequence[WayT],
    lengths: Sequence[int],
    measure: Callable[[WayT, int], Measured],
    *,
    rounds: int,
    limit: float,
    device: str,
    title: str = '',
) -> dict[WayT, dict[int, Measured]]:
    """Measure all ways at all numbers of steps.

    Memory that would not fit is extrapolated from shorter unrolls. An unroll that would take too
    long is left out.

    Args:
        ways: What is measured.
        lengths: Numbers of steps.
        measure: Measures one way at one number of steps, in a process of its own.
        rounds: How often numbers below ``SHORT`` are measured; the median counts.
        limit: Seconds that one may take.
        device: Where it runs.
        title: What to print before each measurement.
    """
    found: dict[WayT, dict[int, Measured]] = defaultdict(dict)
    for steps in sorted(lengths):
        values: dict[WayT, list[Measured]] = defaultdict(list)
        for number in range(rounds if steps < SHORT else 1):
            # In alternating order, so that other load on the machine affects all ways alike.
            for way in list(ways)[:: -1 if number % 2 else 1]:
                timed = {length: r for length, r in found[way].items() if r.seconds}
                expected = extrapolated({k: r.mebibytes for k, r in timed.items()}, steps)
                if expected > 0.8 * _available(device):
                    found[way][steps] = Measured(expected)
                    continue
                if extrapolated({k: r.seconds or 0 for k, r in timed.items()}, steps) > limit:
                    continue
                print(f'{title}{steps} steps: {way}', file=sys.stderr, flush=True)
                values[way].append(measure(way, steps))
        for way, results in values.items():
            found[way][steps] = results[0]._replace(
                mebibytes=median(result.mebibytes for result in results),
                seconds=median(result.seconds or 0.0 for result in results),
                disk=max(result.disk or 0.0 for result in results),
            )
    return found


def records(
    found: Mapping[WayT, Mapping[int, Measured]],
    reference: Callable[[WayT], WayT],
    describe: Callable[[WayT], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return one record for each measurement, with the difference in place of the gradient.

    Args:
        found: The measurements by way and number of steps.
        reference: Returns the way whose meta-gradient a way's is compared with.
        describe: Returns the fields of a record that name a way.
    """
    made = []
    for way, row in found.items():
        for steps, result in row.items():
            theirs = found.get(reference(way), {}).get(steps, Measured(0.0)).gradient
            both = result.gradient is not None and theirs is not None
            shown = Result(
                result.mebibytes,
                result.seconds,
                relative(result.gradient or [], theirs or []) if both else None,
                result.disk,
            )
            made.append({**describe(way), 'steps': steps, **shown._asdict()})
    return made


def last_difference(row: Mapping[int, Result]) -> str:
    """Return the difference at the largest number of steps where it is known."""
    known = [result.difference for result in row.values() if result.difference is not None]
    return f'{known[-1]:.0e}' if known else ''


def device_name(device: str) -> str:
    """Return the name of the GPU, or how many threads the CPU has."""
    if device == 'cuda':
        import torch

        return torch.cuda.get_device_name()
    return 'one thread'


def _available(device: str) -> float:
    """Return the free memory in MiB."""
    if device == 'cuda':
        import torch

        return torch.cuda.mem_get_info()[0] / MIB
    lines = Path('/proc/meminfo').read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith('MemAvailable:'))
    return int(kibibytes) / 1024
