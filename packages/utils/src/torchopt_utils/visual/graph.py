"""The graph that autograd has recorded, with numbers in the place of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchopt.authoring.constant_leaves import is_constant
from torchopt_utils.autograd_graph import edges_of, inputs_first, is_accumulator


@dataclass(frozen=True)
class Graph:
    """A recorded graph. Inputs have smaller numbers than what is computed from them.

    Attributes:
        nodes: For each number, a node of autograd, or the tensor if it is a leaf.
        slots: For each number, the numbers of its inputs; None for an input without a graph.
        outputs: Numbers of the tensors that are drawn, by name.
        numbers: The number of each node, by its ``id``.
    """

    nodes: list[Any]
    slots: list[tuple[int | None, ...]]
    outputs: dict[str, int]
    numbers: dict[int, int]

    def __len__(self) -> int:
        return len(self.nodes)

    def inputs(self, number: int) -> list[int]:
        """Return the numbers of the inputs that have a graph, each once, in order."""
        return list(dict.fromkeys([slot for slot in self.slots[number] if slot is not None]))

    def is_leaf(self, number: int) -> bool:
        """Tell whether this is a tensor that no operation has computed."""
        return isinstance(self.nodes[number], torch.Tensor)

    def number_of(self, tensor: torch.Tensor) -> int | None:
        """Return the number of the operation that computed ``tensor``, or of the leaf itself.

        It is None if the graph does not reach the tensor.
        """
        return self.numbers.get(id(node_of(tensor)))

    def edges(self) -> Iterator[tuple[int, int]]:
        """Yield all pairs (input, operation)."""
        for number in range(len(self)):
            for before in self.inputs(number):
                yield before, number


def node_of(tensor: torch.Tensor) -> Any:
    """Return the node of ``tensor``: the operation that computed it, or the tensor if a leaf."""
    return tensor if tensor.grad_fn is None else tensor.grad_fn


def recorded_graph(outputs: Mapping[str, torch.Tensor]) -> Graph:
    """Walk the graph behind ``outputs``."""
    roots = [node_of(tensor) for tensor in outputs.values()]
    found = inputs_first(roots, _inputs_of)
    numbers = {id(node): number for number, (node, _) in enumerate(found)}
    slots = [
        tuple([None if before is None else numbers[id(before)] for before in behind])
        for _, behind in found
    ]
    named = {name: numbers[id(root)] for name, root in zip(outputs, roots)}
    return Graph([node for node, _ in found], slots, named, numbers)


def _inputs_of(node: Any) -> list[Any]:
    if isinstance(node, torch.Tensor):
        return []
    return [_without_accumulation(before) for before, _ in edges_of(node)]


def _without_accumulation(node: Any) -> Any:
    """Return the leaf in the place of the node that accumulates its gradient.

    A leaf by which an inner gradient was taken counts as a constant.
    """
    if node is None or not is_accumulator(node):
        return node
    return None if is_constant(node.variable) else node.variable
