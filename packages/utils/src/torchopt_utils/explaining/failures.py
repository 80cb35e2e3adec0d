"""Why a backward pass raised."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from torchopt.authoring.detached import detached_by
from torchopt.authoring.torch_internals import holds_tensors
from torchopt_utils.explaining.generators import preserved
from torchopt_utils.explaining.graph import Graph
from torchopt_utils.explaining.report import Finding


def of_failure(
    error: str, loss: torch.Tensor, wanted: Sequence[torch.Tensor], graph: Graph
) -> Finding:
    """Say why differentiating ``loss`` by ``wanted`` raised ``error``."""
    if 'second time' in error:
        return _freed(loss, wanted, graph)
    if 'modified by an inplace operation' in error:
        return Finding(
            'written-in-place',
            'A tensor that the backward pass needs was written into after the graph was built, '
            f'such as by a plain optimizer or by load_state_dict. torch says: {_first_line(error)}',
            'write into a clone, or after the backward pass',
        )
    if 'detached in-place' in error:
        return Finding(
            'stop-gradient',
            'stop_gradient has cut a tensor that the backward pass needs: it was called between '
            'the inner steps and the backward pass of the outer loss.',
            'torchopt.stop_gradient(inner)  # after the backward pass of the outer loss',
        )
    return Finding('backward-failed', f'The backward pass raised: {_first_line(error)}')


def _freed(loss: torch.Tensor, wanted: Sequence[torch.Tensor], graph: Graph) -> Finding:
    if not _loss_is_intact(loss, wanted, graph):
        return Finding(
            'freed',
            'The graph of this loss has been freed by a backward pass, which may have raised, so '
            'that nothing can be measured in it.',
            'call torchopt.explain before loss.backward(), or loss.backward(retain_graph=True)',
        )
    notes = [note for leaf in graph.leaves if (note := detached_by(leaf)) is not None]
    held = {note.held_by for note in notes if note.by == 'stop_gradient'}
    if held == {'module'}:
        return Finding(
            'freed-earlier-round',
            'The graph goes back into an earlier outer round, whose backward pass has freed it: '
            'the module was cut by stop_gradient, but the state of its optimizer was not.',
            'torchopt.stop_gradient(net); torchopt.stop_gradient(inner)  # after each outer step',
        )
    return Finding(
        'freed-earlier-round',
        'The graph goes back into a part that an earlier backward pass has freed: the inner steps '
        'of earlier outer rounds are still in it.',
        'torchopt.stop_gradient(net); torchopt.stop_gradient(inner)  # after each outer step',
    )


def _loss_is_intact(loss: torch.Tensor, wanted: Sequence[torch.Tensor], graph: Graph) -> bool:
    """Tell whether a part of the graph still has what its backward pass needs."""
    entered: list[Any] = []
    with ExitStack() as stack:
        stack.enter_context(preserved([loss, *wanted, *graph.leaves]))
        for node in graph.nodes:

            def enter(cotangents: Any, node: Any = node) -> None:
                entered.append(node)

            stack.callback(node.register_prehook(enter).remove)
        try:
            torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        except RuntimeError:
            return any(holds_tensors(node) for node in entered[:-1])
    return True


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0]
