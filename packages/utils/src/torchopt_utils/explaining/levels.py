"""The inner steps of a graph in order, as reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchopt_utils.explaining.graph import Graph, MarkedStep
from torchopt_utils.explaining.measure import Measured
from torchopt_utils.explaining.numbers import Size
from torchopt_utils.explaining.report import Finding, StepReport


def steps_between(graph: Graph, position: int) -> int:
    """Return how many steps lie between the loss and the tensor at ``position``."""
    levels = {
        step.level
        for step in graph.steps.values()
        if any(graph.leads_to[node] >> position & 1 for node in step.nodes)
    }
    for loop in graph.loops:
        if graph.leads_to[loop.node] >> position & 1:
            levels.update(range(loop.base + 1, loop.base + loop.mark.length + 1))
    return len(levels)


def step_reports(
    graph: Graph, measured: Measured, first_order: Sequence[MarkedStep]
) -> tuple[StepReport, ...]:
    """Return a report for every level."""
    without = {step.step.number for step in first_order}
    at: dict[int, list[tuple[str, Size | None, bool]]] = {}
    for number, step in graph.steps.items():
        entry = (step.step.by, measured.steps.get(number), number in without)
        at.setdefault(step.level, []).append(entry)
    for place, loop in enumerate(graph.loops):
        for number in range(loop.mark.length):
            size = measured.loops.get((place, number))
            by = f'unroll({loop.mark.mode})'
            at.setdefault(loop.base + number + 1, []).append((by, size, False))
    reports = []
    for level, entries in sorted(at.items()):
        sizes = [size for _, size, _ in entries if size is not None and size.norm is not None]
        norms = [size.norm or 0.0 for size in sizes]
        reports.append(
            StepReport(
                index=level,
                by=', '.join(dict.fromkeys(by for by, _, _ in entries)),
                side_by_side=len(entries),
                norm=math.hypot(*norms) if norms else None,
                is_finite=all(size.is_finite for size in sizes),
                first_order=all(flag for _, _, flag in entries),
            )
        )
    return tuple(reports)


def of_unseen(graph: Graph, measured: Measured) -> list[Finding]:
    """Say so if a loop reports no cotangents."""
    if not measured.unseen or measured.error is not None:
        return []
    modes = sorted({graph.loops[place].mark.mode for place in measured.unseen})
    return [
        Finding(
            'unseen-steps',
            f'A loop with backward={modes[0]}() is one node of the graph: it has no cotangents of '
            'single steps.',
            'backward=Recomputed() or Stored() shows them',
        )
    ]
