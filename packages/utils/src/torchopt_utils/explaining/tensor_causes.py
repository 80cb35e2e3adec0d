"""Why a tensor has no gradient, as far as it lies at the tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchopt.authoring.step_marks import step_of
from torchopt_utils.explaining.causes import detached_leaves
from torchopt_utils.explaining.graph import Graph, MarkedStep, graph_of
from torchopt_utils.explaining.report import Finding
from torchopt_utils.explaining.surroundings import is_made_from


def of_the_tensor(tensor: torch.Tensor) -> Finding | None:
    """Return what makes a gradient by ``tensor`` impossible, whatever the loss is."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return Finding(
            'not-floating',
            f'It has the dtype {tensor.dtype}, which has no derivative.',
            'make it a floating-point tensor, before the inner steps use it',
        )
    if not tensor.requires_grad:
        return Finding(
            'requires-no-grad',
            'It does not require grad: it was frozen, detached, or computed under no_grad.',
            'tensor.requires_grad_()  # before the inner steps use it',
        )
    return None


def of_an_unreached(
    tensor: torch.Tensor,
    graph: Graph,
    first_order: Sequence[MarkedStep],
    names: dict[int, str],
) -> list[Finding]:
    """Return why a graph with inner steps may not lead to ``tensor``.

    What :func:`~.causes.of_the_graph` says of the whole graph is not said again.
    """
    if is_made_from(tensor, graph, graph_of(tensor, []).nodes):
        return [
            Finding(
                'other-tensor',
                'The loss depends on what this tensor was computed from, or on another tensor in '
                'the same memory, but not on this one.',
                'pass the very tensor that the inner loss uses as wrt',
            )
        ]
    explained = graph.cut or (graph.steps and len(first_order) == len(graph.steps))
    if explained or (not graph.steps and not graph.loops):
        return []
    cuts = [finding.kind for finding in detached_leaves(graph, names)]
    before: dict[str, str] = {
        'stop-gradient': ' Or it was used by steps before stop_gradient was called.',
        'deepcopy': " Or it was used by steps before the parameters were copied by='deepcopy'.",
    }
    return [
        Finding(
            'unused',
            'The inner steps are in the graph, but nothing in it uses this tensor: not the inner '
            'losses, nor the optimizer, nor the loss itself; or it was detached on the way.'
            + ''.join(before[kind] for kind in cuts),
            'use it in the inner loss without .detach(), .item(), .data or torch.no_grad()',
        )
    ]


def of_current_params(tensors: Sequence[torch.Tensor]) -> list[Finding]:
    """Say so if the parameters of a module that was given as ``wrt`` were made by inner steps."""
    made = [t for t in tensors if t.grad_fn is not None and step_of(t.grad_fn) is not None]
    if not made:
        return []
    return [
        Finding(
            'wrt-after-steps',
            f'wrt is a module, {len(made)} of whose parameters were made by inner steps: '
            'the gradients are by the parameters after those steps, not by the initial ones.',
            'start = dict(net.named_parameters())  # before the first step, as wrt',
        )
    ]
