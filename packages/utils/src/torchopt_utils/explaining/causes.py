"""Why the graph of a loss does not lead to a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import torchopt
from torchopt.authoring.describe import enumerate_few
from torchopt.authoring.detached import detached_by
from torchopt.authoring.step_marks import Step, last_step_from
from torchopt_utils.explaining.graph import Graph, MarkedStep
from torchopt_utils.explaining.report import Finding
from torchopt_utils.explaining.surroundings import leaf_names, plain_optimizers_of

_NO_STEP = 'inner.step(inner_loss)  # torchopt.MetaAdam(net), before the outer loss is computed'


def of_the_graph(
    graph: Graph,
    first_order: Sequence[MarkedStep],
    optimizer: Any,
    names: dict[int, str],
    all_reached: bool,
) -> list[Finding]:
    """Return why a graph may lead to less than it should, the likeliest first.

    Args:
        graph: The graph of the loss.
        first_order: Its steps of first order.
        optimizer: What the caller gave as the inner optimizer, or None.
        names: Names of tensors by their ids.
        all_reached: Whether it leads to everything that was asked for, so that a graph without
            steps need not be a mistake.
    """
    found = [] if all_reached else [*_older_loss(graph), *_hidden(graph)]
    if not graph.steps and not graph.loops:
        if not all_reached:
            cut = detached_leaves(graph, names)
            found += cut or ([] if found else [_no_step(graph, optimizer, names)])
    else:
        found += [*_first_order(graph, first_order), *_truncated(graph)]
    return found


def _hidden(graph: Graph) -> list[Finding]:
    if not any(node.name() == 'CheckpointFunctionBackward' for node in graph.nodes):
        return []
    return [
        Finding(
            'hidden',
            'A part of the graph is hidden in torch.utils.checkpoint, which builds it in the '
            'backward pass, and then for backward() alone.',
            'checkpoint(..., use_reentrant=False)',
        )
    ]


def _older_loss(graph: Graph) -> list[Finding]:
    """Find parameters in the graph from which a later step began that is not in it."""
    begun = {
        node.next_functions[0][0]
        for step in graph.steps.values()
        for node in step.nodes
        if node.next_functions
    }
    begun |= {source for loop in graph.loops for source, _ in loop.node.next_functions}
    later: dict[Step, list[str]] = {}
    for node in graph.nodes:
        mark = last_step_from(node)
        if mark is None or node in begun or mark.step.number <= max(graph.steps, default=-1):
            continue
        later.setdefault(mark.step, []).append(mark.name or 'parameters')
    if not later:
        return []
    step, used = max(later.items())
    loop = step.by.startswith('unroll(') or step.by == 'ModuleStep'
    return [
        Finding(
            'older-loss',
            f'The loss uses {enumerate_few(list(dict.fromkeys(used)))} from before a later step '
            f'(by {step.by}), which is not in its graph: '
            + (
                'the result of unroll has not been written into the module, or the loss was '
                'computed with what unroll was given.'
                if loop
                else 'it was computed before the step, or with a tensor that was taken from the '
                'module before it.'
            ),
            'inner_step.write(carry)  # before the loss is computed'
            if loop
            else 'compute the loss after the step, and read net.weight again',
        )
    ]


def detached_leaves(graph: Graph, names: dict[int, str]) -> list[Finding]:
    """Find leaves of the graph that were cut off a graph."""
    notes: dict[str, list[str]] = {}
    for leaf in graph.leaves:
        note = detached_by(leaf)
        if note is not None and note.held_by != 'optimizer':
            name = names.get(id(leaf), f'a tensor of shape {tuple(leaf.shape)}')
            notes.setdefault(note.by, []).append(name)
    found = []
    if 'stop_gradient' in notes:
        found.append(
            Finding(
                'stop-gradient',
                f'stop_gradient has cut {enumerate_few(notes["stop_gradient"])} off the steps '
                'before, and the loss was computed afterwards.',
                'torchopt.stop_gradient(net)  # after the backward pass of the outer loss',
            )
        )
    if 'deepcopy' in notes:
        found.append(
            Finding(
                'deepcopy',
                f"{enumerate_few(notes['deepcopy'])} are detached copies (by='deepcopy'), which "
                'keep no graph.',
                "torchopt.extract_state_dict(net)  # or by='copy', which stays connected",
            )
        )
    return found


def _no_step(graph: Graph, optimizer: Any, names: dict[int, str]) -> Finding:
    given = isinstance(optimizer, torch.optim.Optimizer)
    plain = [optimizer] if given else plain_optimizers_of(graph.leaves)
    if plain:
        name = type(plain[0]).__name__
        home = type(plain[0]).__module__.partition('.')[0]
        home = 'torch.optim' if home == 'torch' else home
        meta = f'Meta{name}' if f'Meta{name}' in dir(torchopt) else 'MetaOptimizer'
        return Finding(
            'plain-optimizer',
            'No differentiable step is in the graph of the loss, which depends on '
            f'{leaf_names(graph, names)} alone. {home}.{name}, a plain optimizer, has stepped '
            'them: it writes in place and leaves no graph.',
            f'inner = torchopt.{meta}(net, ...); inner.step(inner_loss)',
        )
    held = all(isinstance(leaf, torch.nn.Parameter) for leaf in graph.leaves)
    return Finding(
        'no-step',
        'No differentiable step is in the graph of the loss, which depends on '
        f'{leaf_names(graph, names)} alone: '
        + (
            'no step was taken on this module, but perhaps on another one; or the parameters '
            'were put back afterwards; or what unroll returned was not written into the module.'
            if held
            else 'no step was taken, or what it returned was detached before the loss was computed '
            '(detach(), .data, a new tensor from its values).'
        ),
        _NO_STEP if held else 'params = torchopt.apply_updates(params, updates, inplace=False)',
    )


def _first_order(graph: Graph, steps: Sequence[MarkedStep]) -> list[Finding]:
    if not steps:
        return []
    asked = all(step.step.first_order for step in steps)
    which = _levels(steps, graph)
    if asked:
        text = f'{which} treated the gradients as constants, as first_order=True asks.'
        return [Finding('first-order', text, 'optimizer.step(loss)  # without first_order=True')]
    return [
        Finding(
            'first-order',
            f'{which} added updates that do not depend on the parameters before: the gradients '
            'were taken without create_graph=True, or detached (or the loss of the step is linear '
            'in the parameters, and nothing is missing).',
            'torch.autograd.grad(loss, params, create_graph=True)',
        )
    ]


def _levels(steps: Sequence[MarkedStep], graph: Graph) -> str:
    levels = sorted({step.level for step in steps})
    if len(steps) == len(graph.steps):
        return 'All inner steps' if len(steps) > 1 else 'The inner step'
    return f'Inner steps {enumerate_few([str(level) for level in levels], 6)}'


def _truncated(graph: Graph) -> list[Finding]:
    if not graph.cut:
        return []
    return [
        Finding(
            'truncated',
            f'Truncated has left {graph.cut} earlier steps out of the graph. The initial '
            'parameters, and what only those steps use, have no gradient.',
            'backward=Recomputed() or Snapshots() for all steps in little memory',
        )
    ]
