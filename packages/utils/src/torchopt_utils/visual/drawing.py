"""All that is known of a graph before it is drawn."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from torchopt.authoring.detached import detached_by
from torchopt.authoring.step_marks import LoopMark, last_step_from, loop_of
from torchopt.authoring.update_marks import state_fields_of
from torchopt_utils.visual.folding import Fold, folds
from torchopt_utils.visual.graph import Graph, recorded_graph
from torchopt_utils.visual.modules import modules_of
from torchopt_utils.visual.names import Named
from torchopt_utils.visual.parts import Parts, parts_of
from torchopt_utils.visual.steps import Steps, inner_steps


@dataclass(frozen=True)
class Drawing:
    """A graph with its steps, parts and names.

    Attributes:
        graph: The graph.
        steps: Its inner steps.
        parts: The part of each node.
        modules: Module of each parameter.
        folded: The box of every step that is not drawn by itself.
        given: Names that the user has given, by number.
        parameters: Names of trained parameters, by number, before and after each step.
        carried: Numbers of the tensors with which a loop in one node begins.
        states: Numbers of the leaves that belong to the state of an optimizer.
        missing: Names of tensors that the graph does not reach.
        outputs: The tensors that are drawn, by name.
        loops: Mode and number of steps of the nodes that stand for a whole loop.
    """

    graph: Graph
    steps: Steps
    parts: Parts
    modules: dict[int, str]
    folded: dict[int, Fold]
    given: dict[int, str]
    parameters: dict[int, str]
    carried: set[int]
    states: set[int]
    missing: list[str]
    outputs: dict[str, torch.Tensor]
    loops: dict[int, LoopMark]

    def state_fields(self, number: int) -> tuple[str, ...]:
        """Return the fields of an optimizer's state that an operation has computed."""
        return () if self.graph.is_leaf(number) else state_fields_of(self.graph.nodes[number])


def prepared(
    outputs: dict[str, torch.Tensor],
    named: Sequence[Named],
    max_steps: int | None,
    depth: int | None,
) -> Drawing:
    """Find out all that is known of the graph behind ``outputs``."""
    graph = recorded_graph(outputs)
    steps = inner_steps(graph)
    given: dict[int, str] = {}
    states: set[int] = set()
    missing: dict[str, None] = {}
    for name, tensor, is_state in named:
        number = graph.number_of(tensor)
        if number is not None:
            given.setdefault(number, name)
            if is_state:
                states.add(number)
        elif tensor.requires_grad and not is_state:
            missing[name] = None
    parameters: dict[int, str] = {}
    for step in steps.steps:
        parameters.update({**step.old, **step.made})
    named_leaves = {n for n in given if graph.is_leaf(n) and n not in parameters}
    leaves = {number: given[number] for number in sorted(named_leaves - states)}
    modules = modules_of({**leaves, **parameters}, leaves, depth)
    loops = {
        number: mark
        for number, node in enumerate(graph.nodes)
        if not graph.is_leaf(number) and (mark := loop_of(node)) is not None
    }
    own = {*loops, *(n for n in given if n not in parameters and n not in states)}
    parts = parts_of(graph, steps, modules, own)
    return Drawing(
        graph,
        steps,
        parts,
        modules,
        folds(steps.steps, max_steps),
        given,
        parameters,
        {slot for number in loops for slot in _carried_into(graph, number)},
        _state_leaves(graph, parts, {*parameters, *leaves}) | (named_leaves & states),
        [*missing],
        outputs,
        loops,
    )


def _state_leaves(graph: Graph, parts: Parts, others: Collection[int]) -> set[int]:
    """Return the leaves without a name that were cut off a state.

    Of a tree without an optimizer, these are the leaves that updates alone use.
    """
    used_by: dict[int, set[str]] = {}
    for before, number in graph.edges():
        source = parts.of[before].source
        if graph.is_leaf(before) or parts.of[before].role == 'tensor':
            own = parts.of[number]
            is_same = own.role == 'tensor' and own.source == source
            used_by.setdefault(source if source is not None else before, set()).update(
                () if is_same else (own.role,)
            )
    leaves = [n for n in range(len(graph)) if graph.is_leaf(n) and n not in others]
    notes = {number: detached_by(graph.nodes[number]) for number in leaves}
    return {
        number
        for number, note in notes.items()
        if note is not None and (note.held_by == 'optimizer' or used_by.get(number) == {'update'})
    }


def _carried_into(graph: Graph, number: int) -> Iterator[int]:
    """Yield the inputs of a loop in one node that are its initial carry."""
    for position, (source, _) in enumerate(graph.nodes[number].next_functions):
        slot = graph.slots[number][position]
        mark = None if slot is None else last_step_from(source)
        if slot is not None and mark is not None and mark.position == position:
            yield slot
