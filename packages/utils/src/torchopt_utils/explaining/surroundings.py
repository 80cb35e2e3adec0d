"""What is at hand beside the graph: the module, the optimizer, and who holds a leaf."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.describe import enumerate_few
from torchopt.authoring.module_slots import parameter_slots
from torchopt.authoring.step_marks import step_of
from torchopt_utils.explaining.graph import Graph
from torchopt_utils.explaining.report import Finding
from torchopt_utils.targets import is_optimizer


def plain_optimizers_of(leaves: Iterable[torch.Tensor]) -> list[torch.optim.Optimizer]:
    """Return the plain optimizers of the process that have stepped one of ``leaves``."""
    wanted = {id(leaf) for leaf in leaves}
    return [
        found
        for found in gc.get_objects()
        if issubclass(type(found), torch.optim.Optimizer) and _has_stepped(found, wanted)
    ]


def _has_stepped(optimizer: torch.optim.Optimizer, wanted: set[int]) -> bool:
    # Among all objects of a process, some may not be made to their end.
    groups = getattr(optimizer, 'param_groups', ())
    held = [param for group in groups for param in group['params']]
    if not any(id(param) in wanted for param in held):
        return False
    # A rule without a state, such as plain SGD, shows by the gradients that it has read.
    return bool(getattr(optimizer, 'state', None)) or any(param.grad is not None for param in held)


def names_in(module: nn.Module | None) -> dict[int, str]:
    """Return the names of the parameters of ``module`` by their ids."""
    if module is None:
        return {}
    return {id(slot.read()): name for name, slot in parameter_slots(module).items()}


def written_in_place(module: nn.Module | None, wanted: dict[str, torch.Tensor]) -> Finding | None:
    """Return a finding if parameters that a step made were written into without a graph."""
    tensors = dict(wanted)
    if module is not None:
        slots = parameter_slots(module).items()
        tensors.update({name: t for name, slot in slots if (t := slot.read()) is not None})
    names = [
        name
        for name, tensor in tensors.items()
        if tensor.grad_fn is not None and step_of(tensor.grad_fn) and tensor._version
    ]
    if not names:
        return None
    return Finding(
        'written-in-place',
        f'{enumerate_few(names)} were written into after the step that made them, without a '
        'graph: by load_state_dict of torch, or under torch.no_grad(). The gradient belongs to '
        'the values that stood there before.',
        'put values back with torchopt.extract_state_dict and torchopt.recover_state_dict',
    )


def state_detached(module: nn.Module | None, optimizer: Any) -> Finding | None:
    """Return a finding if the state of the inner optimizer has lost its graph.

    Args:
        module: The module of the inner steps.
        optimizer: Their optimizer, or its functional state.
    """
    if optimizer is None or isinstance(optimizer, torch.optim.Optimizer):
        return None
    state = optimizer.state_dict() if is_optimizer(optimizer) else optimizer
    moments = [t for t in pytree.tree_leaves(state) if _is_floating(t)]
    stepped = any(
        t.grad_fn is not None and step_of(t.grad_fn) is not None
        for slot in (parameter_slots(module).values() if module is not None else ())
        if (t := slot.read()) is not None
    )
    if not moments or not stepped or any(t.grad_fn is not None for t in moments):
        return None
    return Finding(
        'state-detached',
        'The parameters carry the graph of inner steps, but the state of the optimizer carries '
        'none: its moments count as constants in the steps that follow.',
        'torchopt.stop_gradient(net); torchopt.stop_gradient(optimizer)  # both, or neither',
    )


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def outer_holds_old(module: nn.Module | None, optimizer: Any) -> Finding | None:
    """Return a finding if a plain optimizer holds parameters that the module no longer has."""
    if module is None or not isinstance(optimizer, torch.optim.Optimizer):
        return None
    current = {id(slot.read()) for slot in parameter_slots(module).values()}
    held = [param for group in optimizer.param_groups for param in group['params']]
    replaced = any(
        (t := slot.read()) is not None and t.grad_fn is not None and step_of(t.grad_fn) is not None
        for slot in parameter_slots(module).values()
    )
    if not replaced or any(id(param) in current for param in held):
        return None
    return Finding(
        'optimizer-holds-old',
        f'{type(optimizer).__name__} holds the parameters that the module had before the inner '
        'steps. It moves them, and the module will not show it.',
        'torchopt.recover_state_dict(net, state)  # before the outer step',
    )


def leaf_names(graph: Graph, names: dict[int, str]) -> str:
    """Name the leaves of a graph for a message."""
    named = [names[id(leaf)] for leaf in graph.leaves if id(leaf) in names]
    shapes = [str(tuple(leaf.shape)) for leaf in graph.leaves if id(leaf) not in names]
    parts = [enumerate_few(named)] if named else []
    if shapes:
        parts.append(f'leaves of the shapes {enumerate_few(shapes)}')
    return ' and '.join(parts)


def is_made_from(tensor: torch.Tensor, graph: Graph, behind: Sequence[Any]) -> bool:
    """Tell whether the graph leads to what ``tensor`` was computed from, or to an alias of it.

    Args:
        tensor: A tensor that the graph does not lead to.
        graph: The graph of the loss.
        behind: The nodes behind ``tensor``.
    """
    if tensor.grad_fn is not None and {*behind} & {*graph.nodes}:
        return True
    return any(_share_memory(tensor, leaf) for leaf in graph.leaves)


def _share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.layout is not torch.strided or b.layout is not torch.strided or not a.numel():
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
