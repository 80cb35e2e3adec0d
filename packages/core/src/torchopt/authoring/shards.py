"""Tensors that are spread over ranks (DTensors), recognised without importing their class.

The class takes a second to import. A program that has such a tensor has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import nn

PLAIN = (torch.Tensor, nn.Parameter)
"""Types of tensors that are not spread over ranks."""
_WRAPPERS = ('FSDPModule', 'FullyShardedDataParallel')


class Placement(NamedTuple):
    """Where the parts of a DTensor are.

    Attributes:
        mesh: The ranks, as a ``DeviceMesh``.
        placements: For each dimension of the mesh, a ``Shard``, ``Replicate`` or ``Partial``.
    """

    mesh: Any
    placements: tuple[Any, ...]


def placement_of(value: Any) -> Placement | None:
    """Return the placement of a DTensor; None for any other value."""
    if type(value) in PLAIN or not isinstance(value, torch.Tensor):
        return None
    placements = getattr(value, 'placements', None)
    mesh = getattr(value, 'device_mesh', None)
    return None if placements is None or mesh is None else Placement(mesh, tuple(placements))


def is_whole(value: Any) -> bool:
    """Tell whether this rank has the whole value: a DTensor that is sharded or partial is not."""
    placement = placement_of(value)
    return placement is None or all(part.is_replicate() for part in placement.placements)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a DTensor that this rank holds; any other tensor as it is."""
    return tensor if placement_of(tensor) is None else tensor.to_local()  # type: ignore[attr-defined]


def filled_on_all_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return a DTensor of which a rank may hold no element as a replicated one.

    The maximum of no elements raises, on that rank alone. Any other tensor is returned as it is.
    """
    placement = placement_of(tensor)
    if placement is None:
        return tensor
    parts = dict.fromkeys(range(tensor.dim()), 1)
    for dimension, part in enumerate(placement.placements):
        if part.is_shard():
            parts[part.dim] *= placement.mesh.size(dimension)
    if all(tensor.shape[dim] % number == 0 for dim, number in parts.items()):
        return tensor
    # The class is beside the class of the other placements.
    replicate = sys.modules[type(placement.placements[0]).__module__].Replicate()
    whole: torch.Tensor = tensor.redistribute(  # type: ignore[attr-defined]
        placement.mesh, [replicate] * placement.mesh.ndim
    )
    return whole


def fully_sharded(module: nn.Module) -> str | None:
    """Return the name of the first submodule that ``fully_shard`` or FSDP has wrapped, if any.

    Parameters that do not require grad do not count: no gradient of theirs can be lost.
    """
    for name, member in module.named_modules():
        wrapped = any(
            # Versions of torch have the classes in different modules.
            kind.__name__ in _WRAPPERS and kind.__module__.startswith('torch.distributed.')
            for kind in type(member).__mro__
        )
        if wrapped and any(param.requires_grad for param in member.parameters()):
            return f'{name or "the module"} ({type(member).__name__})'
    return None


def require_not_fully_sharded(module: nn.Module, user: str) -> None:
    """Raise if ``fully_shard`` or FSDP has wrapped a part of ``module``.

    Args:
        module: A module whose parameters ``user`` differentiates by.
        user: Who needs it, for the message.

    Raises:
        RuntimeError: there is such a part; the message names it.
    """
    found = fully_sharded(module)
    if found is not None:
        raise RuntimeError(
            f'{user} cannot differentiate through fully_shard (FSDP): {found} gathers its own '
            'parameters in hooks that autograd does not see, whatever tensors it is given, so that '
            'their gradients would be 0. Leave fully_shard out, make the parameters DTensors with '
            'distribute_tensor, and gather them in the loss with redistribute, as '
            'docs/many-ranks.md shows'
        )
