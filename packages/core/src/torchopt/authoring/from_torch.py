"""Conversion of a trained optimizer to a functional state and an entry of the registry."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring import checks
from torchopt.authoring.describe import describe
from torchopt.authoring.steps import shared_device
from torchopt.authoring.torch_state import STEP, Entry, StateLayout, counts_of, require_fitting
from torchopt.base import GradientTransformation
from torchopt.registry import OPTIMIZERS, OptimizerEntry
from torchopt.typing import OptState, Params

__all__ = ['entry_of', 'state_from_torch']


def state_from_torch(
    transformation: GradientTransformation, params: Params, optimizer: torch.optim.Optimizer
) -> OptState:
    """Return the state of a trained optimizer as a state of ``transformation``.

    With this state, the inner loop of a meta-learner begins with the moments of a ``torch.optim``
    optimizer or of a plain optimizer of this library. The tensors are copies, so that later steps
    of one side do not change the other. A parameter that has taken no step gets initial values.

    Args:
        transformation: The rule of ``optimizer``, such as :func:`torchopt.adam` for
            :class:`torch.optim.Adam`. It keeps its own hyperparameters.
        params: Tree of the tensors that ``optimizer`` holds, such as
            ``dict(net.named_parameters())``. It may contain other tensors that do not require grad.
        optimizer: A ``torch.optim`` or plain optimizer.

    Returns:
        What ``transformation.init(params)`` returns, with the values of ``optimizer``.

    Raises:
        TypeError: ``optimizer`` is not a ``torch.optim.Optimizer``, or ``params`` is not a tree of
            floating-point tensors.
        ValueError: ``optimizer`` does not hold a parameter, or its state belongs to another rule.

    Example:
        >>> import torch, torchopt
        >>> params = {'w': torch.ones(2, requires_grad=True)}
        >>> trained = torch.optim.SGD(params.values(), lr=0.1, momentum=0.9)
        >>> params['w'].sum().backward()
        >>> trained.step()
        >>> impl = torchopt.sgd(lr=0.1, momentum=0.9)
        >>> torchopt.state_from_torch(impl, params, trained)[0].trace
        {'w': tensor([1., 1.])}
    """
    _require_optimizer(optimizer)
    leaves, structure = checks.params(params)
    first = transformation.init(params)
    listed = _listed(first, params, structure, transformation)
    layout = StateLayout(listed, len(leaves))
    entries: list[Entry] = [{} for _ in leaves]
    layout.write(listed, entries)

    held = {id(param) for group in optimizer.param_groups for param in group['params']}
    trained: list[Entry] = []
    for position, leaf in enumerate(leaves):
        if leaf is not None and leaf.requires_grad and id(leaf) not in held:
            raise ValueError(
                f'{structure.accessors()[position].codify("params")} is not a parameter of the '
                'optimizer: pass the tensors that the optimizer steps, before a meta-optimizer has '
                'replaced them'
            )
        entry = {} if leaf is None else _entry(optimizer, leaf)
        where = structure.accessors()[position].codify('params')
        require_fitting(where, position, entry, layout, 'the transformation')
        trained.append(entry)
    for position, entry in enumerate(trained):
        entries[position].update({k: v for k, v in entry.items() if k != STEP})
    # A value that all parameters share is in the entry of every trained parameter.
    for name in layout.shared_names:
        value = next((entry[name] for entry in trained if name in entry), entries[0][name])
        for entry in entries:
            entry[name] = value
    state = layout.read(entries, counts_of(trained, shared_device(params)))
    return _copied_like(first, state)


def entry_of(optimizer: torch.optim.Optimizer) -> OptimizerEntry:
    """Return the registry's entry for the class of ``optimizer``.

    Raises:
        TypeError: ``optimizer`` is not a ``torch.optim.Optimizer``, or its class is not in the
            registry.
    """
    _require_optimizer(optimizer)
    for base in type(optimizer).__mro__:
        for entry in OPTIMIZERS:
            if base.__name__ in entry.class_names and _is_ours_or_torchs(base):
                return entry
    raise TypeError(
        f'there is no rule for {type(optimizer).__name__}: pass one of '
        f'{", ".join(entry.class_name for entry in OPTIMIZERS)}, or a transformation of your own '
        'to torchopt.state_from_torch'
    )


def _require_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f'optimizer must be a torch.optim.Optimizer, got {describe(optimizer)}')


def _is_ours_or_torchs(cls: type) -> bool:
    return cls.__module__.split('.')[0] in ('torch', 'torchopt')


def _listed(
    state: OptState,
    params: Params,
    structure: pytree.PyTreeSpec,
    transformation: GradientTransformation,
) -> OptState:
    """Return ``state`` with every tree that is shaped like ``params`` replaced by its leaves."""
    if structure.is_leaf():
        return transformation.init([params])

    def leaves_of(tree: Any) -> list[Any] | None:
        for is_leaf in (None, _is_empty):  # a rule for some parameters leaves out the others
            leaves, found = pytree.tree_flatten(tree, is_leaf, none_is_leaf=True)
            if found == structure:
                return leaves
        return None

    def is_like_params(tree: Any) -> bool:
        return leaves_of(tree) is not None

    def listed(tree: Any) -> Any:
        leaves = leaves_of(tree)
        return tree if leaves is None else leaves

    return pytree.tree_map(listed, state, is_leaf=is_like_params, none_is_leaf=True)


def _is_empty(value: Any) -> bool:
    return type(value) is tuple and not value


def _entry(optimizer: torch.optim.Optimizer, param: torch.Tensor) -> Entry:
    found = optimizer.state.get(param) or {}
    return {name: value for name, value in found.items() if value is not None}


def _copied_like(first: OptState, state: OptState) -> OptState:
    leaves, structure = pytree.tree_flatten(first, none_is_leaf=True)
    found = pytree.tree_leaves(state, none_is_leaf=True)
    return pytree.tree_unflatten(structure, [*map(_copied, leaves, found)])


def _copied(like: Any, leaf: Any) -> Any:
    if not isinstance(like, torch.Tensor):
        return leaf
    copied = leaf.to(like.device, like.dtype, copy=True)
    # With moment_requires_grad, initial values require grad.
    return copied.requires_grad_() if like.requires_grad and copied.is_leaf else copied
