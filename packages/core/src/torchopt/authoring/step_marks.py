"""Marks of inner steps in the graph of autograd, for tools that explain or draw it.

A node of the graph has a dictionary, ``node.metadata``, that lives as long as the node. A step that
can be differentiated through leaves a mark there for every parameter that it has made. A mark holds
numbers and strings alone, so that it keeps nothing alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.authoring.common_trees import SEQUENCES, values_of
from torchopt.authoring.torch_internals import transforming

_STEP, _LAST, _LOOP, _CUT = (f'torchopt.{name}' for name in ('step', 'last', 'loop', 'cut'))
_numbers = itertools.count()

_Names = tuple[str, ...] | None
"""Names of all leaves of a tree: None where their positions are their names, () without names."""


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
    names, olds, nodes = _named_nodes(old, new)
    step = Step(next(_numbers) if number is None else number, by, first_order, len(nodes))
    for position, (before, node) in enumerate(zip(olds, nodes)):
        if node is None or node is before:
            continue
        node.metadata[_STEP] = mark = (step, position, names)
        if before is None:  # a leaf, or a constant
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
                source.metadata[_LAST] = (step, position, ())


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
    return _read(node.metadata.get(_STEP))


def loop_of(node: Any) -> LoopMark | None:
    """Return the mark of a whole loop at a node of the graph (a ``grad_fn``), if it has one."""
    mark: LoopMark | None = node.metadata.get(_LOOP)
    return mark


def last_step_from(node: Any) -> StepMark | None:
    """Return what the last step says that began at the parameter of a node, if there is one.

    The node is the ``grad_fn`` of the parameter; if it is a leaf, the node that accumulates its
    gradient, which is the same object only as long as the graph of the step lives.
    """
    return _read(node.metadata.get(_LAST))


def cut_of(node: Any) -> int:
    """Return how many earlier steps ``Truncated`` left out of the graph behind a node, or 0."""
    steps: int = node.metadata.get(_CUT, 0)
    return steps


def nodes_of(tree: Any) -> list[Any]:
    """Return the nodes that made the leaves of a tree; None for what has no graph.

    Autograd makes a Python object for each node that it is asked for, which is most of what a mark
    costs. The leaves of a dictionary are in its own order.
    """
    if isinstance(tree, torch.Tensor):
        return [tree.grad_fn]
    flat = values_of(tree)
    if flat is not None:
        try:
            return [leaf.grad_fn for leaf in flat]
        except AttributeError:
            pass  # a leaf is None, or a tree
    whole: Any = tree
    return [getattr(leaf, 'grad_fn', None) for leaf in pytree.tree_leaves(whole)]


def _named_nodes(old: Any, new: Any) -> tuple[_Names, list[Any], list[Any]]:
    """Return names, nodes of ``old`` and nodes of ``new`` for the leaves of two like trees."""
    kind = type(new)
    if type(old) is kind:
        try:
            if kind is dict and all([type(name) is str for name in new]):
                olds = [old[name].grad_fn for name in new]
                return tuple(new), olds, [leaf.grad_fn for leaf in new.values()]
            if kind in SEQUENCES:
                return None, [leaf.grad_fn for leaf in old], [leaf.grad_fn for leaf in new]
        except AttributeError:
            pass
    paths, leaves, _ = pytree.tree_flatten_with_path(new)
    names = tuple(map(_joined, paths))
    return names, nodes_of(pytree.tree_leaves(old)), nodes_of(leaves)


def _joined(path: Iterable[Any]) -> str:
    # A key of another type is not kept alive.
    return '.'.join(str(key) if isinstance(key, (str, int)) else type(key).__name__ for key in path)


def _read(mark: tuple[Step, int, _Names] | None) -> StepMark | None:
    if mark is None:
        return None
    step, position, names = mark
    if names is None:
        return StepMark(step, position, str(position))
    return StepMark(step, position, names[position] if names else '')


def _note(tensor: Any, key: str, value: Any) -> None:
    node: Any = tensor.grad_fn if isinstance(tensor, torch.Tensor) else None
    if node is not None:
        node.metadata[key] = value
