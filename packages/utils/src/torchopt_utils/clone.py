"""Clones of modules, optimizers, states and trees."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import nn

from torchopt import pytree
from torchopt_utils.copying import Copier, CopyMode, copier
from torchopt_utils.extract import extract_state_dict
from torchopt_utils.state import ModuleState
from torchopt_utils.targets import Stateful, is_optimizer, tensors_of
from torchopt_utils.torch_format import is_torch_format, load

TargetT = TypeVar('TargetT')
ModuleT = TypeVar('ModuleT', bound=nn.Module)


def module_clone(
    target: TargetT,
    *,
    by: CopyMode = 'reference',
    detach_buffers: bool = False,
    device: torch.device | str | int | None = None,
) -> TargetT:
    """Return a new object like ``target``, which holds the same tensors or copies of them.

    Tied weights stay one tensor. Unlike ``copy.deepcopy``, this works for modules whose parameters
    carry a graph.

    Args:
        target: A module, an optimizer, an extracted state or a tree of tensors. The clone of an
            optimizer steps the same parameters with a state of its own; the optimizer must support
            ``copy.copy``.
        by: ``'reference'``, ``'copy'`` (connected to the graph) or ``'deepcopy'`` (detached), or
            one of their aliases, as for :func:`extract_state_dict`.
        detach_buffers: Deep-copy the buffers of a module, whatever ``by`` says.
        device: Device of the clone's tensors; by default, each stays on its device.

    Raises:
        ValueError: ``by`` is not one of these.
        TypeError: ``target`` is none of these.

    Example:
        >>> import torch, torchopt
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> clone = torchopt.module_clone(net, by='copy')
        >>> torch.autograd.grad(clone.weight.sum(), net.weight)
        (tensor([[1.]]),)
    """
    tensors = copier(by, device)
    if isinstance(target, nn.Module):
        return _clone_module(
            target, tensors, copier('deepcopy', device) if detach_buffers else tensors
        )
    if isinstance(target, ModuleState):
        state = extract_state_dict(target, by=by, detach_buffers=detach_buffers, device=device)
        return cast(TargetT, state)
    if is_optimizer(target):
        state = extract_state_dict(target, by=by, device=device)
        return cast(TargetT, _clone_optimizer(target, state))
    if not is_torch_format(target):
        tensors_of(target)
    return tensors.tree(target)


def _clone_module(module: ModuleT, tensors: Copier, buffers: Copier) -> ModuleT:
    # deepcopy refuses tensors that carry a graph, so it finds their copies in the memo. The memo
    # holds every tensor of the modules, so that tied ones stay tied: parameters, buffers, and plain
    # attributes such as the flat weights of recurrent layers.
    memo: dict[int, Any] = {}
    for submodule in module.modules():
        leaves: list[Any] = pytree.tree_leaves(cast(Any, vars(submodule)))
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                memo[id(leaf)] = tensors.tensor(leaf)
    for buffer in module.buffers():
        memo[id(buffer)] = buffers.tensor(buffer)
    return copy.deepcopy(module, memo)


def _clone_optimizer(optimizer: Stateful, state: Any) -> Stateful:
    # A deepcopy would step copies of the parameters, which nobody else can reach.
    clone = copy.copy(optimizer)
    load(clone, state, keep_learned=False)
    return clone
