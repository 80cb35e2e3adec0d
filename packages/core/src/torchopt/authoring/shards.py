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


def placed_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a DTensor with the placement of another one; any other tensor as it is."""
    wanted, placement = placement_of(other), placement_of(tensor)
    if wanted is None or placement is None or placement == wanted:
        return tensor
    moved: torch.Tensor = tensor.redistribute(*wanted)  # type: ignore[attr-defined]
    return moved


def replicated_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor as a DTensor that every rank of ``other`` holds.

    Its gradient is then plain, too, and summed over ranks. DTensors combine with a plain 0-dim
    tensor, but leave it a gradient that does not combine with other plain tensors.
    """
    placement = placement_of(other)
    if placement is None or placement_of(tensor) is not None:
        return tensor
    kind: Any = type(other)
    mesh, _ = placement
    spread: torch.Tensor = kind.from_local(
        tensor, mesh, [_replicate(placement)] * mesh.ndim, run_check=False
    )
    return spread


def whole_value(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole value of a DTensor as a plain tensor; any other tensor as it is."""
    return tensor if placement_of(tensor) is None else tensor.full_tensor()  # type: ignore[attr-defined]


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
    whole: torch.Tensor = tensor.redistribute(  # type: ignore[attr-defined]
        placement.mesh, [_replicate(placement)] * placement.mesh.ndim
    )
    return whole


def _replicate(placement: Placement) -> Any:
    # The class is beside the class of the other placements.
    return sys.modules[type(placement.placements[0]).__module__].Replicate()
