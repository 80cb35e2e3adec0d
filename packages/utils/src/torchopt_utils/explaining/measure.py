"""One backward pass that is watched, and leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from torchopt.authoring.observed_loops import cotangents_observed
from torchopt_utils.explaining.generators import preserved
from torchopt_utils.explaining.graph import Graph
from torchopt_utils.explaining.numbers import Size


@dataclass
class Measured:
    """What a backward pass has shown.

    Attributes:
        gradients: Size of the gradient by each tensor; None where there is none.
        steps: Size of the cotangent of the parameters that each step made, by its number.
        loops: The same for the steps of each loop in one node, by its position and their number.
        unseen: Positions of the loops that report nothing.
        error: The message of the error that the backward pass raised.
    """

    gradients: list[Size | None]
    steps: dict[int, Size] = field(default_factory=dict)
    loops: dict[tuple[int, int], Size] = field(default_factory=dict)
    unseen: list[int] = field(default_factory=list)
    error: str | None = None


def measure(loss: torch.Tensor, wanted: Sequence[torch.Tensor | None], graph: Graph) -> Measured:
    """Differentiate ``loss`` by the tensors of ``wanted``, and watch the steps on the way.

    The graph stays usable, no ``.grad`` is written, and generators are where they were.

    Args:
        loss: A scalar with a graph.
        wanted: What to differentiate by; None is left out.
        graph: The graph of ``loss``.
    """
    found = Measured([None] * len(wanted))
    positions = [position for position, tensor in enumerate(wanted) if tensor is not None]
    tensors = [tensor for tensor in wanted if tensor is not None]
    if not tensors:
        return found

    with ExitStack() as stack:
        stack.enter_context(preserved([loss, *tensors, *graph.leaves]))
        for number, step in graph.steps.items():
            for node in step.nodes:
                hook = _adder(found.steps, number)
                stack.callback(node.register_prehook(hook).remove)
        for place, loop in enumerate(graph.loops):

            def see(
                number: int, cotangents: Sequence[torch.Tensor | None], place: int = place
            ) -> None:
                _add(found.loops.setdefault((place, number), Size()), cotangents)

            if not stack.enter_context(cotangents_observed(loop.node, see)):
                found.unseen.append(place)
        try:
            gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            found.error = str(error)  # the error itself would keep the graph alive
            return found
    for position, gradient in zip(positions, gradients):
        if gradient is not None:
            size = found.gradients[position] = Size()
            size.add(gradient)
    return found


def _adder(sizes: dict[int, Size], number: int) -> Any:
    def hook(cotangents: tuple[torch.Tensor | None, ...]) -> None:
        _add(sizes.setdefault(number, Size()), cotangents)

    return hook


def _add(size: Size, cotangents: Sequence[torch.Tensor | None]) -> None:
    for cotangent in cotangents:
        if cotangent is not None:
            size.add(cotangent)
