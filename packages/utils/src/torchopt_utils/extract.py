"""Extract the state of modules and optimizers."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import nn

from torchopt_utils.copying import Copier, CopyMode, copier, keeper
from torchopt_utils.state import BufferSnapshot, ModuleSnapshot, ModuleState
from torchopt_utils.targets import is_optimizer, tensors_of
from torchopt_utils.torch_format import is_torch_format


@overload
def extract_state_dict(
    target: nn.Module | ModuleState,
    *,
    by: CopyMode = ...,
    device: torch.device | str | int | None = ...,
    with_buffers: bool = ...,
    detach_buffers: bool = ...,
    enable_visual: bool = ...,
    visual_prefix: str = ...,
) -> ModuleState: ...
@overload
def extract_state_dict(
    target: Any,
    *,
    by: CopyMode = ...,
    device: torch.device | str | int | None = ...,
    with_buffers: bool = ...,
    detach_buffers: bool = ...,
    enable_visual: bool = ...,
    visual_prefix: str = ...,
) -> Any: ...


def extract_state_dict(
    target: Any,
    *,
    by: CopyMode = 'reference',
    device: torch.device | str | int | None = None,
    with_buffers: bool = True,
    detach_buffers: bool = False,
    enable_visual: bool = False,
    visual_prefix: str = '',
) -> Any:
    """Return the state of a module or of an optimizer, to be recovered later.

    The state has containers of its own. It stays as it is when other tensors are put into
    ``target``, as a meta-optimizer does. A tensor that is shared within ``target`` is shared
    within the state.

    An optimizer in the format of ``torch.optim``, whose state is a dictionary with
    ``param_groups``, writes into its tensors at every step. There, ``'reference'`` takes connected
    copies; only leaves that require grad, such as a learned rate, are taken themselves.

    Args:
        target: A module, an optimizer (anything with ``state_dict`` and ``load_state_dict``), a
            state that was extracted from one, or a tree of tensors.
        by: ``'reference'`` (or ``'ref'``) takes the tensors themselves; ``'copy'``
            (``'clone'``) takes copies through which gradients flow back to the tensors, also
            under ``torch.no_grad()``; ``'deepcopy'`` (``'deepclone'``) takes detached copies that
            require grad where the tensors do.
        device: Device of the state's tensors; by default, each stays on its device. A reference to
            a tensor on another device becomes a connected copy.
        with_buffers: Include the buffers of a module.
        detach_buffers: Deep-copy the buffers of a module, whatever ``by`` says. Layers such as
            batch normalisation write into their buffers, and references would show the changes.
        enable_visual: Keep the names of a module's parameters for :func:`make_dot`.
        visual_prefix: Put before each of these names.

    Returns:
        A :class:`ModuleState` for a module; for an optimizer, a tree like the one that its
        ``state_dict`` returns.

    Raises:
        ValueError: ``by`` is not one of these.
        TypeError: ``target`` is none of these.

    Example:
        >>> import torch, torchopt
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> state = torchopt.extract_state_dict(net)
        >>> state.params[0]['weight'] is net.weight
        True
        >>> torchopt.extract_state_dict(net, by='copy').params[0]['weight'].grad_fn is None
        False
    """
    params_copier = copier(by, device)
    buffers_copier = copier('deepcopy', device) if detach_buffers else params_copier
    if isinstance(target, nn.Module):
        names: dict[str, torch.Tensor] | None = None
        if enable_visual:
            names = {visual_prefix + name: p for name, p in target.named_parameters()}
        modules = list(target.modules())
        target = ModuleState(
            tuple(dict(module._parameters) for module in modules),
            tuple(dict(module._buffers) for module in modules),
            names,
        )
    if isinstance(target, ModuleState):
        kind = type(target)
        if by not in ('reference', 'ref'):
            kind = ModuleSnapshot
        elif detach_buffers and not isinstance(target, BufferSnapshot):
            kind = BufferSnapshot
        return _copy_state(target, kind, params_copier, buffers_copier, with_buffers)
    if is_optimizer(target):
        state = target.state_dict()
        if is_torch_format(state) and by in ('reference', 'ref'):
            return keeper(device).tree(state)
        return params_copier.tree(state)
    if not is_torch_format(target):
        tensors_of(target)
    return params_copier.tree(target)


def _copy_state(
    state: ModuleState,
    kind: type[ModuleState],
    params_copier: Copier,
    buffers_copier: Copier,
    with_buffers: bool,
) -> ModuleState:
    return kind(
        params_copier.slots(state.params),
        buffers_copier.slots(state.buffers) if with_buffers else (),
        params_copier.tree(state.visual_contents),
    )
