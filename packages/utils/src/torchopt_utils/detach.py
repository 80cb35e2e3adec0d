"""Cut tensors off the graph that computed them, in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.detached import note_detached
from torchopt.authoring.module_slots import parameter_slots
from torchopt_utils.derived import derived_tensors
from torchopt_utils.state import ModuleState
from torchopt_utils.targets import Stateful, is_optimizer, tensors_of
from torchopt_utils.torch_format import is_torch_format, load

TargetT = TypeVar('TargetT')


def stop_gradient(target: Any) -> None:
    """Cut tensors off the graph that computed them, in place; they require grad as before.

    Afterwards these tensors keep nothing of the old graph alive, so that memory stays constant
    over outer steps. A gradient in ``.grad`` that carries a graph is cut too.

    In a module, the weights that a layer derives from its parameters are cut as well: old-style
    ``weight_norm`` and ``spectral_norm`` and pruning keep them as plain attributes, named like the
    parameters. Other attributes stay in their graph, since meta-parameters may be learned through
    them. So do the hyperparameters of an optimizer.

    Torch can't detach a view in place. In a module, an optimizer or a :class:`ModuleState`, a
    detached tensor on the same memory takes the view's place.

    Args:
        target: A module, an optimizer, an extracted state or a tree of tensors.

    Raises:
        TypeError: ``target`` is none of these.
        ValueError: ``target`` is a tree with a view that has a graph. Nothing has changed then.

    Example:
        >>> import torch, torchopt
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = 2 * x
        >>> torchopt.stop_gradient(y)
        >>> y
        tensor([2., 2.], requires_grad=True)
    """
    if isinstance(target, nn.Module):
        _cut_module(target)
    elif isinstance(target, ModuleState):
        _cut_state(target)
    elif is_optimizer(target):
        _cut_optimizer(target)
    else:
        named = _tensors_in(target) if is_torch_format(target) else tensors_of(target)
        for name, tensor in named.items():
            if tensor._is_view() and _has_graph(tensor):
                raise ValueError(
                    f'{name} is a view, which torch cannot detach in place: detach its base, or '
                    'put a clone of the view into the tree'
                )
        _cut(named.values(), {}, 'tree')


def module_detach_(target: TargetT) -> TargetT:
    """Cut tensors off the graph that computed them, and return ``target``.

    The same as :func:`stop_gradient`, for use in an expression.

    Args:
        target: A module, an optimizer, an extracted state or a tree of tensors.

    Raises:
        TypeError: ``target`` is none of these.
        ValueError: ``target`` is a tree with a view that has a graph. Nothing has changed then.

    Example:
        >>> import torch, torchopt
        >>> torchopt.module_detach_([2 * torch.ones(2, requires_grad=True)])
        [tensor([2., 2.], requires_grad=True)]
    """
    stop_gradient(target)
    return target


def _cut_module(module: nn.Module) -> None:
    slots = parameter_slots(module).values()
    buffers = [submodule._buffers for submodule in module.modules()]
    derived = list(derived_tensors(module))
    held = [slot.read() for slot in slots] + [t for each in buffers for t in each.values()]
    tensors = [tensor for tensor in held if tensor is not None]
    tensors += [tensor for _, _, tensor in derived]
    detached = _detached_views(tensors)
    for slot in slots:
        slot.write(detached.get(id(slot.read()), slot.read()))
    for each in buffers:
        each.update({name: detached.get(id(t), t) for name, t in each.items()})
    for submodule, name, tensor in derived:
        if id(tensor) in detached:
            setattr(submodule, name, detached[id(tensor)])
    _cut(tensors, detached, 'module')


def _cut_optimizer(optimizer: Stateful) -> None:
    state = optimizer.state_dict()
    tensors = list(_tensors_in(state).values())
    detached = _detached_views(tensors)
    _cut(tensors, detached, 'optimizer')
    if detached:
        load(
            optimizer,
            pytree.tree_map(lambda t: detached.get(id(t), t), state, none_is_leaf=True),
        )


def _tensors_in(state: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of an optimizer's state; its hyperparameters stay in their graph."""
    if is_torch_format(state):
        state = state['state']
    accessors, leaves, _ = pytree.tree_flatten_with_accessor(state)
    named = {access.codify('state'): leaf for access, leaf in zip(accessors, leaves)}
    return {name: leaf for name, leaf in named.items() if isinstance(leaf, torch.Tensor)}


def _cut_state(state: ModuleState) -> None:
    containers: list[dict[str, Any]] = [*state.params, *state.buffers, state.visual_contents or {}]
    tensors = [t for each in containers for t in each.values() if t is not None]
    detached = _detached_views(tensors)
    for each in containers:
        each.update({name: detached.get(id(t), t) for name, t in each.items()})
    _cut(tensors, detached, 'state')


def _detached_views(tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    return {
        id(t): t.detach().requires_grad_(t.requires_grad)
        for t in tensors
        if t._is_view() and _has_graph(t)
    }


def _has_graph(tensor: torch.Tensor) -> bool:
    # A view made under no_grad has no graph, but keeps the graph of its base alive.
    base = tensor._base
    return tensor.grad_fn is not None or (base is not None and base.grad_fn is not None)


def _cut(tensors: Iterable[torch.Tensor], replaced: dict[int, torch.Tensor], held_by: str) -> None:
    for tensor in tensors:
        if id(tensor) in replaced:
            note_detached(replaced[id(tensor)], 'stop_gradient', held_by)
            continue
        if tensor.grad_fn is not None:
            tensor.detach_().requires_grad_()
            note_detached(tensor, 'stop_gradient', held_by)
        if tensor.grad is not None and tensor.grad.grad_fn is not None:
            tensor.grad = tensor.grad.detach()
