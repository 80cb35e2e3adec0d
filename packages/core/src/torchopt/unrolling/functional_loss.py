"""A loss of a module, as a function of the module's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class FunctionalLoss(nn.Module):
    """A function of a module, with the module's parameters and buffers as arguments.

    Attributes:
        module: Where the names and the frozen parameters come from.
        fn: ``fn(module, x, consts)`` returns the loss.
        unused: Names of the parameters that the loss did not depend on in its last eager call;
            None before the first one. A step that is traced cannot find them out.
        differentiable: Names of the buffers that require grad. All other buffers are constants.
    """

    def __init__(self, module: nn.Module, fn: Callable[[Any, Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self.fn = fn
        self.unused: tuple[str, ...] | None = None
        self.differentiable: tuple[str, ...] = ()
        self._names: dict[str, str] = {}
        self.read_names()

    def read_names(self) -> None:
        """Find out which places of the module hold the same tensor, and which buffers learn."""
        first: dict[int, str] = {}
        self._names = {}
        # Each module once, whatever the number of its names: two writes into one place, as
        # functional_call makes them for tied weights, could not be undone in order.
        for prefix, owner in self.module.named_modules():
            for key, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is not None:
                    name = f'{prefix}.{key}' if prefix else key
                    self._names[name] = first.setdefault(id(tensor), name)
        self.differentiable = tuple(
            name for name, buffer in self.module.named_buffers() if buffer.requires_grad
        )

    def call(
        self, tensors: Mapping[str, torch.Tensor], x: Any, consts: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and the new buffers; a name stands for all places of its tensor."""
        places = {name: name for name in tensors} | self._names
        replaced = {
            f'module.{place}': tensors[name] for place, name in places.items() if name in tensors
        }
        result: tuple[torch.Tensor, dict[str, torch.Tensor]] = torch.func.functional_call(
            self, replaced, (x, consts), tie_weights=False
        )
        return result

    def forward(self, x: Any, consts: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of the module as it is, and its buffers."""
        loss = self.fn(self.module, x, consts)
        # Read afterwards, because some modules assign new buffers instead of writing into them.
        return loss, dict(self.module.named_buffers())
