"""Marks of inner steps in the graph of autograd, for tools that explain or draw it.

A node of the graph has a dictionary, ``node.metadata``, that lives as long as the node. A step that
can be differentiated through leaves a mark there for every parameter that it has made. A mark holds
numbers and strings alone, so that it keeps nothing alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.torch_internals import transforming

_STEP, _LAST, _LOOP, _CUT = (f'torchopt.{name}' for name in ('step', 'last', 'loop', 'cut'))
_numbers = itertools.count()


class Step(NamedTuple):
    """One inner step.

    Attributes:
        number: Grows with every step of the process.
        by: What took the step: ``'MetaAdam'``, ``'FuncOptimizer'``, ``'apply_updates'``, ...
        first_order: Whether its gradients were asked for as constants.
        size: Number of leaves in the tree of parameters.
    """

    number: int
    by: str
    first_order: bool
    size: int


class StepMark(NamedTuple):
    """What the node of a parameter says of the step that made it.

    The node adds an update to an old parameter. ``node.next_functions[0]`` leads to the old
    parameter, and ``node.next_functions[1]`` to the update. Only where ``by`` is ``'unroll'``, the
    step was written by hand, and its node may be any operation.

    Attributes:
        step: The step.
        position: Position of the parameter in the step's tree, from 0.
        name: Name of the parameter, such as ``'0.weight'``; empty if the tree is one tensor.
    """

    step: Step
    position: int
    name: str


class LoopMark(NamedTuple):
    """What a node that is a whole :func:`torchopt.unroll` says of the loop.

    Attributes:
        mode: Name of the strategy, such as ``'Recomputed'``.
        length: Number of steps that it stands for.
    """

    mode: str
    length: int


def mark_step(
    old: Any, new: Any, by: str, *, first_order: bool = False, number: int | None = None
) -> None:
    """Mark the nodes that made ``new`` as one inner step; the nodes of ``old`` note that it exists.

    It does nothing in traced code, under a transform of ``torch.func``, for tensors without a
    graph, and for those that a step has left as they were.

    Args:
        old: Tree of parameters before the step.
        new: The tree after it.
        by: What took the step.
        first_order: Whether the gradients were asked for as constants.
        number: Number of the step; None takes the next one.
    """
    if not recording():
        return
    named = _named(new)
    step = Step(next(_numbers) if number is None else number, by, first_order, len(named))
    for position, ((_, source), (name, leaf)) in enumerate(zip(_named(old), named)):
        node: Any = leaf.grad_fn if isinstance(leaf, torch.Tensor) else None
        if node is None or leaf is source:
            continue
        node.metadata[_STEP] = mark = (step, position, name)
        before = node.next_functions[0][0]
        if before is not None:
            before.metadata[_LAST] = mark


def recording() -> bool:
    """Tell whether autograd records, and neither traced code nor a transform of ``torch.func``."""
    return torch.is_grad_enabled() and not transforming() and not torch.compiler.is_compiling()


def mark_loop(outputs: Iterable[Any], mode: str, length: int, carried: int) -> None:
    """Mark the node that made ``outputs`` as a loop of ``length`` steps.

    Args:
        outputs: What the loop returned.
        mode: Name of the strategy.
        length: Number of steps.
        carried: How many of its inputs, the first ones, are its initial carry.
    """
    if not length:
        return
    nodes: set[Any] = {
        o.grad_fn for o in outputs if isinstance(o, torch.Tensor) and o.requires_grad
    }
    step = Step(next(_numbers), f'unroll(..., {mode})', False, carried)
    for node in nodes:
        node.metadata[_LOOP] = LoopMark(mode, length)
        for position, (source, _) in enumerate(node.next_functions[:carried]):
            if source is not None:
                source.metadata[_LAST] = (step, position, '')


def mark_cut(tensors: Iterable[Any], steps: int) -> None:
    """Mark the nodes that made ``tensors``: ``steps`` steps before are left out of the graph."""
    for tensor in tensors:
        _note(tensor, _CUT, steps)


def next_number() -> int:
    """Return a number: steps that are taken later have larger ones."""
    return next(_numbers)


def any_since(tensors: Iterable[Any], number: int) -> bool:
    """Tell whether one of ``tensors`` was made by a step that is later than ``number``."""
    nodes = (getattr(tensor, 'grad_fn', None) for tensor in tensors)
    marks = (node.metadata.get(_STEP) for node in nodes if node is not None)
    return any(mark is not None and mark[0].number > number for mark in marks)


def step_of(node: Any) -> StepMark | None:
    """Return the mark of an inner step at a node of the graph (a ``grad_fn``), if it has one."""
    mark = node.metadata.get(_STEP)
    return None if mark is None else StepMark(*mark)


def loop_of(node: Any) -> LoopMark | None:
    """Return the mark of a whole loop at a node of the graph (a ``grad_fn``), if it has one."""
    mark: LoopMark | None = node.metadata.get(_LOOP)
    return mark


def last_step_from(node: Any) -> StepMark | None:
    """Return what the last step says that began at the parameter of a node, if there is one.

    The node is the ``grad_fn`` of the parameter; if it is a leaf, the node that accumulates its
    gradient, which is the same object only as long as the graph of the step lives.
    """
    mark = node.metadata.get(_LAST)
    return None if mark is None else StepMark(*mark)


def cut_of(node: Any) -> int:
    """Return how many earlier steps ``Truncated`` left out of the graph behind a node, or 0."""
    steps: int = node.metadata.get(_CUT, 0)
    return steps


def _note(tensor: Any, key: str, value: Any) -> None:
    node: Any = tensor.grad_fn if isinstance(tensor, torch.Tensor) else None
    if node is not None:
        node.metadata[key] = value


def _named(params: Any) -> Sequence[tuple[str, Any]]:
    """Return the leaves in order, with names; a key of another type than str is not kept."""
    if type(params) is dict:  # the most common tree, without the search for others
        flat = list(params.items())
        if all([type(name) is str and isinstance(leaf, torch.Tensor) for name, leaf in flat]):
            return flat
    tree: Any = params
    paths, leaves, _ = pytree.tree_flatten_with_path(tree)
    names = (
        '.'.join(str(key) if isinstance(key, (str, int)) else type(key).__name__ for key in path)
        for path in paths
    )
    return list(zip(names, leaves))
