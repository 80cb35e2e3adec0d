"""Which steps are of first order: their updates are independent of the parameters before them."""

from __future__ import annotations

from typing import Any

from torchopt.authoring.update_marks import has_constant_gradient
from torchopt_utils.explaining.graph import Graph, MarkedStep, inputs_of


def first_order_steps(graph: Graph) -> list[MarkedStep]:
    """Return the steps whose updates do not depend on the parameters from which they begin.

    The derivative of the gradients is missing there: they were taken without ``create_graph=True``,
    or with ``first_order=True``, or the loss of the step is linear in the parameters.
    """
    newest = _newest_steps(graph)
    return [step for step in graph.steps.values() if _is_first_order(step, graph, newest)]


def has_update_graph(step: MarkedStep) -> bool:
    """Tell whether an update of the step carries a graph of any kind."""
    return any(_update_of(node) is not None for node in step.nodes)


def _is_first_order(step: MarkedStep, graph: Graph, newest: dict[Any, int]) -> bool:
    if step.step.by == 'unroll':
        return False  # written by hand: which input is the update is not known
    if step.step.first_order:
        return True
    updates = [update for node in step.nodes if (update := _update_of(node)) is not None]
    if all(has_constant_gradient(update) for update in updates):
        return True
    olds = {node.next_functions[0][0] for node in step.nodes} - {None}
    if not olds:
        return False  # the parameters were constants, so that nothing can be missing
    last = max(newest[old] for old in olds)
    if last >= 0:
        return all(newest[update] < last for update in updates)
    # Before the first step, parameters have no mark: search for the nodes themselves.
    return not _reaches(updates, olds)


def _update_of(node: Any) -> Any:
    functions = node.next_functions
    return functions[1][0] if len(functions) > 1 else None


def _newest_steps(graph: Graph) -> dict[Any, int]:
    """Return the number of the newest step behind each node, itself included, or -1."""
    numbers = {node: number for number, step in graph.steps.items() for node in step.nodes}
    for loop in graph.loops:
        numbers[loop.node] = 0
    newest: dict[Any, int] = {}
    for node in graph.nodes:
        behind = max((newest[source] for source, _ in inputs_of(node)), default=-1)
        newest[node] = max(behind, numbers.get(node, -1))
    return newest


def _reaches(starts: list[Any], goals: set[Any]) -> bool:
    seen: set[Any] = set()
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        if node in goals:
            return True
        if node not in seen:
            seen.add(node)
            waiting.extend(source for source, _ in inputs_of(node))
    return False
