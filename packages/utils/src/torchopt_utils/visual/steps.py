"""The inner steps in a graph, and which of them each operation belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from torchopt.authoring.step_marks import StepMark, step_of
from torchopt.authoring.update_marks import gradient_of, has_constant_gradient
from torchopt_utils.visual.graph import Graph

OUTER, SHARED = -1, -2
"""Owners that are not steps: what follows the steps, and what several of them use."""


@dataclass
class InnerStep:
    """One inner step.

    Attributes:
        by: What took the step, such as ``'MetaAdam'``.
        first_order: Whether its gradients were constants.
        made: Names of the new parameters, by their numbers in the graph.
        old: Names of the parameters before the step, by their numbers in the graph.
        before: Position of the step that made its parameters; None for the first of a run.
        ordinal: 1 for the first step of a run, 2 for the next.
    """

    by: str
    first_order: bool
    made: dict[int, str] = field(default_factory=dict)
    old: dict[int, str] = field(default_factory=dict)
    before: int | None = None
    ordinal: int = 1


@dataclass(frozen=True)
class Steps:
    """All inner steps of a graph, and the owner of each node.

    Attributes:
        steps: In the order in which they were taken.
        maker: Position of the step that made a parameter, by the parameter's number.
        owner: For each number, the position of the step to which the operation belongs, or
            ``OUTER`` or ``SHARED``.
        is_meta: For each number, whether it depends on no parameter that a step trains.
    """

    steps: list[InnerStep]
    maker: dict[int, int]
    owner: list[int]
    is_meta: list[bool]


def inner_steps(graph: Graph) -> Steps:
    """Find the inner steps of ``graph`` by their marks."""
    steps, maker = _marked_steps(graph)
    order = _Order(steps)
    trained_before = {number for step in steps for number in step.old}
    trained = {*maker} | trained_before
    # The gradient of a linear loss is what its step computes, though it uses no parameter.
    trained |= {number for number, node in enumerate(graph.nodes) if _is_gradient(node)}
    is_meta: list[bool] = []
    for number in range(len(graph)):
        uses_meta = [is_meta[other] for other in graph.inputs(number)]
        is_meta.append(number not in trained and all(uses_meta))
    if not steps:
        is_meta = [False] * len(graph)
    # Parameters that are computed before a step, as by a hypernetwork.
    computed = {*trained_before} - {*maker}
    owner: list[int | None] = [None] * len(graph)
    for number in graph.outputs.values():
        owner[number] = OUTER
    for number in reversed(range(len(graph))):
        own = SHARED if number in computed else maker.get(number, owner[number])
        # Everything was reached from an output.
        own = owner[number] = OUTER if own is None else own
        for before in graph.inputs(number):
            owner[before] = order.first_of(owner[before], own, is_meta=is_meta[before])
    return Steps(steps, maker, [OUTER if own is None else own for own in owner], is_meta)


def _marked_steps(graph: Graph) -> tuple[list[InnerStep], dict[int, int]]:
    marks = {
        number: mark
        for number, node in enumerate(graph.nodes)
        if not graph.is_leaf(number) and (mark := step_of(node)) is not None
    }
    found: dict[int, InnerStep] = {}
    for number, mark in sorted(marks.items(), key=lambda item: item[1].position):
        step = found.setdefault(
            mark.step.number,
            InnerStep(mark.step.by, mark.step.first_order),
        )
        step.made[number] = mark.name
        old = _old_parameter(graph, number, mark, marks)
        if old is not None:
            step.old.setdefault(old, mark.name)
        step.first_order |= mark.step.by != 'unroll' and _has_constant_update(graph, number)
    latest = _latest_steps(graph, marks)
    steps = [found[key] for key in sorted(found)]
    position_of = {key: position for position, key in enumerate(sorted(found))}
    for step in steps:
        before = max([latest[number] for number in step.made])
        if before >= 0:
            step.before = position_of[before]
            step.ordinal = steps[step.before].ordinal + 1
    maker = {number: position for position, step in enumerate(steps) for number in step.made}
    return steps, maker


def _is_gradient(node: Any) -> bool:
    return not isinstance(node, torch.Tensor) and gradient_of(node) is not None


def _old_parameter(
    graph: Graph, number: int, mark: StepMark, marks: Mapping[int, StepMark]
) -> int | None:
    if mark.step.by != 'unroll':
        return graph.slots[number][0] if _adds(graph, number) else None
    # A step that unroll has marked may have made its parameters in any way. This is the usual one.
    old = graph.slots[number][0] if _adds(graph, number) else None
    return old if old is not None and (graph.is_leaf(old) or old in marks) else None


def _has_constant_update(graph: Graph, number: int) -> bool:
    if not _adds(graph, number):
        return False
    update = graph.slots[number][1]
    if update is None or graph.is_leaf(update):
        return update is None
    return has_constant_gradient(graph.nodes[update])


def _adds(graph: Graph, number: int) -> bool:
    operation: str = graph.nodes[number].name()
    return operation.startswith(('AddBackward', 'SubBackward'))


def _latest_steps(graph: Graph, marks: dict[int, StepMark]) -> list[int]:
    """Return, for each node, the number of the latest step before it, or -1."""
    latest: list[int] = []
    for number in range(len(graph)):
        before = [
            marks[other].step.number if other in marks else latest[other]
            for other in graph.inputs(number)
        ]
        latest.append(max(before, default=-1))
    return latest


class _Order:
    """Tells which of two steps came before the other, in constant time."""

    def __init__(self, steps: list[InnerStep]) -> None:
        after: list[list[int]] = [[] for _ in steps]
        for position, step in enumerate(steps):
            if step.before is not None:
                after[step.before].append(position)
        self._first, self._last = [0] * len(steps), [0] * len(steps)
        clock = 0
        for root, step in enumerate(steps):
            pending = [] if step.before is not None else [(root, False)]
            while pending:
                position, is_done = pending.pop()
                clock += 1
                if is_done:
                    self._last[position] = clock
                    continue
                self._first[position] = clock
                pending.append((position, True))
                pending.extend([(later, False) for later in after[position]])

    def first_of(self, one: int | None, other: int, *, is_meta: bool) -> int:
        """Return the owner of what ``one`` and ``other`` both use."""
        if one is None or one == other:
            return other
        # What depends on no trained parameter belongs to no step more than to another.
        if is_meta or SHARED in (one, other):
            return SHARED
        if OUTER in (one, other):
            return max(one, other)
        earlier, later = sorted((one, other))
        covers = self._first[earlier] <= self._first[later] <= self._last[earlier]
        return earlier if covers else SHARED
