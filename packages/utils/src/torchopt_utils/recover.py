"""Put an extracted state back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from torchopt.authoring.describe import alike, describe
from torchopt.authoring.module_slots import ParameterSlot
from torchopt_utils.copying import Slots, renewer
from torchopt_utils.derived import refresh_derived
from torchopt_utils.state import BufferSnapshot, ModuleSnapshot, ModuleState
from torchopt_utils.targets import Stateful, is_optimizer
from torchopt_utils.torch_format import load


def recover_state_dict(target: nn.Module | Stateful, state: Any) -> None:
    """Put an extracted state back into a module or an optimizer.

    A state can be recovered any number of times, since nothing writes into it:

    - A module gets back the very tensors that were extracted by reference. Where the state holds
      copies, the module gets new copies of the same kind, connected or detached.
    - An optimizer in the format of ``torch.optim`` gets new copies. A hyperparameter that is a
      learned tensor stays this tensor: a detached copy's value is written into it.
    - Any other optimizer, such as a meta-optimizer, gets the tensors of the state themselves: its
      steps replace them.

    Tensors may be on another device than the tensors that they replace. Weights that torch's
    old-style ``weight_norm``, ``spectral_norm`` or pruning derive from parameters are computed
    again.

    Args:
        target: The module or optimizer from which the state was extracted, or one like it.
        state: What :func:`extract_state_dict` returned. Where the buffers were left out, the module
            keeps its own.

    Raises:
        TypeError: ``target`` is neither a module nor an optimizer, or ``state`` was extracted from
            the other kind.
        ValueError: the state does not fit: the number of submodules, a name, a shape or a dtype
            differs, or tied tensors would be separated. Nothing has changed then. Whether a state
            fits an optimizer, its ``load_state_dict`` decides.

    Example:
        >>> import torch, torchopt
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> weight = net.weight
        >>> state = torchopt.extract_state_dict(net)
        >>> torchopt.MetaSGD(net, lr=1.0).step(net.weight.sum())
        >>> net.weight is weight
        False
        >>> torchopt.recover_state_dict(net, state)
        >>> net.weight is weight
        True
    """
    if isinstance(target, nn.Module):
        if not isinstance(state, ModuleState):
            raise TypeError(
                'the state of a module is the ModuleState that extract_state_dict returns for it, '
                f'got {type(state).__name__}'
            )
        _recover_module(target, state)
    elif is_optimizer(target):
        if isinstance(state, (ModuleState, nn.Module)) or is_optimizer(state):
            raise TypeError(
                'the state of an optimizer is what extract_state_dict returns for it, '
                f'got {type(state).__name__}'
            )
        load(target, state)
    else:
        raise TypeError(f'target must be a module or an optimizer, got {type(target).__name__}')


def _recover_module(module: nn.Module, state: ModuleState) -> None:
    submodules = dict(module.named_modules())
    parameters = [submodule._parameters for submodule in submodules.values()]
    buffers = [submodule._buffers for submodule in submodules.values()]
    pairs = [*_fitting('parameter', list(submodules), parameters, state.params)]
    if state.buffers:
        pairs += _fitting('buffer', list(submodules), buffers, state.buffers)
    _require_tied(pairs)

    new_params, new_buffers = state.params, state.buffers
    renewed = renewer()
    if isinstance(state, ModuleSnapshot):
        new_params = renewed.slots(new_params)
    if isinstance(state, BufferSnapshot):
        new_buffers = renewed.slots(new_buffers)
    for submodule, slots in zip(submodules.values(), new_params):
        for name, tensor in slots.items():
            ParameterSlot(submodule, name).write(tensor)
    for submodule, slots in zip(submodules.values(), new_buffers):
        submodule._buffers.update(slots)
    refresh_derived(module)


def _fitting(
    kind: str, submodules: list[str], current: list[Any], given: tuple[Slots, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the qualified name of every slot, what it holds and what it will hold, or raise."""
    if len(given) != len(current):
        raise ValueError(
            f'the state has {kind}s of {len(given)} submodules, the module has {len(current)}'
        )
    for prefix, slots, new_slots in zip(submodules, current, given):
        if slots.keys() != new_slots.keys():
            raise ValueError(
                f'the {kind}s of {prefix or "the module itself"!r} are {[*slots]}, '
                f'but the state has {[*new_slots]}'
            )
        for name, old in slots.items():
            new = new_slots[name]
            qualified = f'{prefix}.{name}' if prefix else name
            if not isinstance(new, (torch.Tensor, type(None))):
                raise TypeError(
                    f'{kind} {qualified!r} of the state must be a tensor or None, '
                    f'got {describe(new)}'
                )
            if not alike(old, new):
                raise ValueError(
                    f'{kind} {qualified!r} does not fit: the module has {describe(old)}, '
                    f'the state {describe(new)}'
                )
            yield qualified, old, new


def _require_tied(pairs: list[tuple[str, Any, Any]]) -> None:
    first: dict[int, tuple[str, Any]] = {}
    for name, old, new in pairs:
        other_name, other = first.setdefault(id(old), (name, new))
        if old is not None and new is not other:
            raise ValueError(
                f'{other_name!r} and {name!r} are one tensor in the module, but two in the state'
            )
