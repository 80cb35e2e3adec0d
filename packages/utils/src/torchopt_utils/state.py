"""The state of a module, as a tree of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch


class ModuleState(NamedTuple):
    """Tensors of a module, in dictionaries of their own.

    It is a tree of tensors, and can be saved with ``torch.save`` and loaded with ``torch.load``.

    Attributes:
        params: A dictionary for every submodule, in the order of ``module.modules()``: its own
            parameters by name, and None for a parameter that is registered as None.
        buffers: The same for buffers; empty if they were left out.
        visual_contents: The parameters by qualified name, for :func:`make_dot`, or None.
    """

    params: tuple[dict[str, torch.Tensor | None], ...]
    buffers: tuple[dict[str, torch.Tensor | None], ...] = ()
    visual_contents: dict[str, torch.Tensor] | None = None


# The class says what recovering has to copy. A field would put a leaf into the tree that is not a
# tensor.
class BufferSnapshot(ModuleState):
    """A state whose buffers are copied when it is recovered, since layers write into them."""

    __slots__ = ()


class ModuleSnapshot(BufferSnapshot):
    """A state whose parameters and buffers are copied when it is recovered."""

    __slots__ = ()


torch.serialization.add_safe_globals([ModuleState, BufferSnapshot, ModuleSnapshot])
