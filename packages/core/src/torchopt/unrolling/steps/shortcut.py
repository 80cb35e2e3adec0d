"""The way past Dynamo's guards, for calls that are known to pass them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torchopt.unrolling.leaves import Leaves, is_placeholder, template_of, tensors_of
from torchopt.unrolling.steps.recording import Graph, GraphCall


class Wiring(NamedTuple):
    """How the arguments and results of a compiled function belong to those of its graph.

    Attributes:
        inputs: For each input of the graph, its position among the arguments followed by what
            it takes from elsewhere.
        outputs: Number of outputs of the graph.
        results: For each result, its position among the outputs followed by the arguments; None if
            the result is a constant.
        constants: Results that are not tensors, with a placeholder for each that is.
    """

    inputs: list[int]
    outputs: int
    results: list[int | None]
    constants: Leaves

    @classmethod
    def of(
        cls, call: GraphCall, arguments: Leaves, results: Leaves
    ) -> tuple[Wiring, list[Any]] | None:
        """Find it by the identity of tensors, together with the inputs from elsewhere.

        The answer is None if a result is not an output or an argument, or has a graph of autograd,
        or if an output is not a result: the function then does more than its graph.

        Args:
            call: What the graph received and returned.
            arguments: What the compiled function received, each tensor once.
            results: What it returned.
        """
        places = _places(arguments)
        captured: list[Any] = []
        inputs = []
        for value in call.inputs:
            if id(value) not in places:
                places[id(value)] = len(arguments) + len(captured)
                captured.append(value)
            inputs.append(places[id(value)])
        sources = _places([*call.outputs, *arguments])
        tensors = tensors_of(results)
        if any(id(tensor) not in sources or tensor.requires_grad for tensor in tensors):
            return None
        if not set(map(id, call.outputs)) <= set(map(id, tensors)):
            return None
        found = [sources.get(id(result)) for result in results]
        return cls(inputs, len(call.outputs), found, template_of(results)), captured


def _places(values: Leaves) -> dict[int, int]:
    return {
        id(value): position
        for position, value in reversed(list(enumerate(values)))
        if isinstance(value, torch.Tensor)
    }


class Shortcut:
    """Calls the graph of a compiled function, whose guards need not be asked any more.

    Dynamo's guards ask about the arguments and about everything else that the function sees. If
    two calls in a row ran the same graph, the first has changed nothing that they ask about, and
    what it returned passed as an argument of the second. As the same graph does the same whenever
    its guards pass, all calls pass that follow a call through the guards, as long as nothing but
    the function runs in between.
    """

    def __init__(self) -> None:
        self._last: _Guarded | None = None
        self._path: _Path | None = None
        self._graph: Graph | None = None
        self._first: int | None = None

    def close(self) -> None:
        """Let the guards be asked again, because something else may have run."""
        self._last = self._path = None

    def knows(self, number: int) -> bool:
        """Tell whether the call of a number had the arguments that a call of the chain has."""
        return self._first is not None and number >= self._first

    def serves(self, number: int) -> bool:
        """Tell whether the call of a number can go this way."""
        return self._path is not None and self.knows(number)

    def note(self, number: int, calls: list[GraphCall], arguments: Leaves, results: Leaves) -> None:
        """Look at a call that has passed the guards.

        Args:
            number: Number of the call in its chain.
            calls: The graphs that it ran.
            arguments: What it received, each tensor once.
            results: What it returned.
        """
        found = Wiring.of(calls[0], arguments, results) if len(calls) == 1 else None
        last, self._last = self._last, None
        if found is None:
            return
        wiring, captured = found
        graph = calls[0].graph
        self._last = _Guarded(number, graph, wiring, captured)
        first = number
        if last is not None and self._last.follows(last):
            graph.chained = wiring
            first = last.number
        # Another graph than before may return other layouts.
        if graph.chained == wiring and self._graph in (None, graph):
            if self._first is None:
                self._first = first
            self._graph = graph
            self._path = _Path(graph, wiring, captured)

    def __call__(self, arguments: Leaves) -> Leaves:
        """Call the graph; return the results."""
        assert self._path is not None
        return self._path(arguments)


class _Guarded(NamedTuple):
    """A call that has passed the guards: its number, and what it ran on."""

    number: int
    graph: Graph
    wiring: Wiring
    captured: list[Any]

    def follows(self, last: _Guarded) -> bool:
        """Tell whether it is the next call after ``last``, and differs in its arguments alone."""
        # What Dynamo makes for each call is another object: one of Python's random numbers, say.
        return (
            (self.number, self.graph, self.wiring) == (last.number + 1, last.graph, last.wiring)
            and len(self.captured) == len(last.captured)
            and all(map(operator.is_, self.captured, last.captured))
        )


class _Path:
    """A wiring, prepared for many calls."""

    def __init__(self, graph: Graph, wiring: Wiring, captured: list[Any]) -> None:
        self._run = graph.run
        self._captured = captured
        self._take_inputs = _taking(wiring.inputs)
        self._constants = [leaf for leaf in wiring.constants if not is_placeholder(leaf)]
        # Behind the outputs and the arguments.
        behind = itertools.count(-len(self._constants))
        places = [next(behind) if place is None else place for place in wiring.results]
        self._take_results = _taking(places)
        # Like the results of the function, no two are the same object, and none is an argument.
        self._shared = [
            position
            for position, place in enumerate(wiring.results)
            if place is not None and (place >= wiring.outputs or place in places[:position])
        ]

    def __call__(self, arguments: Leaves) -> Leaves:
        outputs = self._run(*self._take_inputs([*arguments, *self._captured]))
        results = self._take_results([*outputs, *arguments, *self._constants])
        for position in self._shared:
            results[position] = results[position].detach()
        return results


def _taking(positions: list[int]) -> Callable[[Leaves], Leaves]:
    """Return a function that picks the elements at ``positions`` of a list."""
    if len(positions) < 2:
        return lambda values: [values[position] for position in positions]
    pick = operator.itemgetter(*positions)
    return lambda values: list(pick(values))
