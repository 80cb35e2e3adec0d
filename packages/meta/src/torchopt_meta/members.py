"""Which parameters of a module an optimizer takes, and the check that the others stay frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from torchopt.authoring.describe import describe
from torchopt.authoring.module_slots import ParameterSlot, gone, parameter_slots
from torchopt.authoring.wrappers import require_no_wrapper


class Members(NamedTuple):
    """The slots of a module.

    Attributes:
        added: Slots of each new parameter by its name.
        again: Slots of parameters that are optimised already, each after the list it belongs to.
        frozen: Names of the slots whose tensors do not require grad.
    """

    added: dict[str, list[ParameterSlot]]
    again: list[tuple[list[ParameterSlot], ParameterSlot]]
    frozen: dict[ParameterSlot, str]


def require_replaceable(module: object, user: str) -> None:
    """Raise unless ``module`` is a module whose parameters steps can replace.

    Raises:
        TypeError: ``module`` is not a module, or a part of it is a TorchScript module.
        RuntimeError: ``fully_shard`` or DDP has wrapped a part of it.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            'a meta-optimizer takes a torch.nn.Module, such as net and not net.parameters(), '
            f'got {describe(module)}; use torchopt.FuncOptimizer for a tree of tensors'
        )
    if any(isinstance(member, torch.jit.ScriptModule) for member in module.modules()):
        raise TypeError(
            'the parameters of a TorchScript module cannot be replaced: use the module that it '
            'was made from'
        )
    require_no_wrapper(module, user)


def members_of(module: nn.Module, known: Mapping[int, list[ParameterSlot]]) -> Members:
    """Return the slots of ``module``.

    Args:
        module: The module.
        known: Slots of the parameters that are optimised already, by the tensor's ``id``.
    """
    found = Members({}, [], {})
    slots_of = dict(known)
    for name, slot in parameter_slots(module).items():
        tensor = slot.read()
        if tensor is None:
            continue
        if id(tensor) in slots_of:
            found.again.append((slots_of[id(tensor)], slot))
        elif tensor.requires_grad:
            found.added[name] = slots_of[id(tensor)] = [slot]
        else:
            found.frozen[slot] = name
    return found


def require_frozen(frozen: Mapping[ParameterSlot, str]) -> None:
    """Raise RuntimeError if a parameter that was frozen requires grad now, or is gone."""
    for slot, name in frozen.items():
        try:
            tensor = slot.read()
        except KeyError:
            raise gone(name) from None
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f'parameter {name!r} did not require grad when its module was added, but does '
                'now: call add_param_group with the module again to optimise it too'
            )
