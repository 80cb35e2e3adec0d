"""What a compiled function runs: its graph, seen from the backend of ``torch.compile``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch

from torchopt.unrolling.steps.announcement import announced

Compiler: TypeAlias = Callable[[torch.fx.GraphModule, Any], Callable[..., Any]]
"""A backend of ``torch.compile``."""


class Graph:
    """What a backend has made: a function from tensors to a sequence of tensors.

    Attributes:
        run: The function.
        chained: How calls follow each other that need no guards; see :class:`.Shortcut`.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.chained: Any = None


class GraphCall(NamedTuple):
    """One call of a graph.

    Attributes:
        graph: The graph.
        inputs: What it received.
        outputs: What it returned.
    """

    graph: Graph
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


class RecordingBackend:
    """A backend of ``torch.compile`` whose graphs can be watched."""

    def __init__(self, backend: Compiler, what: str) -> None:
        """Take a backend.

        Args:
            backend: What compiles.
            what: Name of what it compiles.
        """
        self._backend = backend
        self._what = what

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        """Compile a graph that Dynamo has traced."""
        with announced(self._what):
            graph = Graph(self._backend(module, inputs))

        def run(*inputs: Any) -> Any:
            outputs = graph.run(*inputs)
            if _in_thread.calls is not None:
                _in_thread.calls.append(GraphCall(graph, inputs, tuple(outputs)))
            return outputs

        return run


@contextmanager
def recorded() -> Iterator[list[GraphCall]]:
    """Yield a list of the calls of watched graphs in the block, in this thread."""
    before, calls = _in_thread.calls, list[GraphCall]()
    _in_thread.calls = calls
    try:
        yield calls
    finally:
        _in_thread.calls = before


class _InThread(threading.local):
    calls: list[GraphCall] | None = None


# Not an attribute, by which the search for captured tensors would find what a graph returned.
_in_thread = _InThread()
