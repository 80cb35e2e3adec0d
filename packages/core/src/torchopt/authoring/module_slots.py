"""Slots: the places where modules hold their parameters.

``torch.nn.Module`` accepts only a ``Parameter`` by assignment. A differentiable step replaces
parameters by tensors that carry a graph, and therefore writes into the module's registry directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

__all__ = ['ParameterSlot', 'gone', 'parameter_slots', 'read_params', 'write_params']


class ParameterSlot(NamedTuple):
    """One place that holds a parameter: an attribute of a module."""

    owner: nn.Module
    name: str

    def read(self) -> torch.Tensor | None:
        """Return the tensor in this slot, or None for a parameter registered as None.

        Raises:
            KeyError: the module no longer has a parameter of this name.
        """
        return self.owner._parameters[self.name]

    def write(self, tensor: torch.Tensor | None) -> None:
        """Put ``tensor`` into this slot, whether or not it is a ``Parameter``."""
        self.owner._parameters[self.name] = tensor  # type: ignore[assignment]
        if isinstance(self.owner, nn.RNNBase):
            # Recurrent layers compute with a second list of their weights.
            self.owner._flat_weights = [
                getattr(self.owner, name, None) for name in self.owner._flat_weights_names
            ]


def parameter_slots(module: nn.Module) -> dict[str, ParameterSlot]:
    """Return every slot of ``module`` and its submodules by qualified name.

    A submodule with several names is listed once, under the first; a tied tensor has one slot per
    name.
    """
    return {
        f'{prefix}.{name}' if prefix else name: ParameterSlot(owner, name)
        for prefix, owner in module.named_modules()
        for name in owner._parameters
    }


def gone(name: str) -> RuntimeError:
    """Return the error for a parameter that its module no longer has."""
    return RuntimeError(
        f'parameter {name!r} has been removed from its module since the optimizer was made. '
        'If a parametrization, weight normalisation or pruning now computes it, make the '
        'optimizer afterwards'
    )


def read_params(slots: Mapping[str, Sequence[ParameterSlot]]) -> dict[str, torch.Tensor]:
    """Return the parameter of each name; a tied parameter has several slots.

    Raises:
        RuntimeError: a parameter has been removed from its module, or is no longer tied.
    """
    params = {}
    for name, (first, *others) in slots.items():
        try:
            tensor = first.read()
            shared = not others or all([slot.read() is tensor for slot in others])
        except KeyError:
            raise gone(name) from None
        if tensor is None:
            raise gone(name)
        if not shared:
            raise RuntimeError(
                f'parameter {name!r} was shared when its module was added, but no longer is: '
                'make a new optimizer'
            )
        params[name] = tensor
    return params


def write_params(
    slots: Mapping[str, Sequence[ParameterSlot]], params: Mapping[str, torch.Tensor]
) -> None:
    """Put each of ``params`` into all slots of its name."""
    for name, tensor in params.items():
        for slot in slots[name]:
            slot.write(tensor)
