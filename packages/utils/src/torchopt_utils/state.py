"""The state of a module, as a tree of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch


class ModuleState(NamedTuple):
    """Tensors of a module, in dictionaries of their own.

    It is a tree of tensors, and can be saved with ``torch.save`` and loaded with ``torch.load``.

    Attributes:
        params: For every submodule, in the order of ``module.modules()``, its own parameters by
            name; None where one is registered as None.
        buffers: The same of its buffers; empty if they were left out.
        visual_contents: The parameters by qualified name, for :func:`make_dot`, or None.
    """

    params: tuple[dict[str, torch.Tensor | None], ...]
    buffers: tuple[dict[str, torch.Tensor | None], ...] = ()
    visual_contents: dict[str, torch.Tensor] | None = None


# What recovering has to copy is told by the class, not by a field, which would put a leaf that is
# no tensor into the tree.
class BufferSnapshot(ModuleState):
    """A state whose buffers are copied when it is recovered: layers write into them in place."""

    __slots__ = ()


class ModuleSnapshot(BufferSnapshot):
    """A state whose parameters and buffers are copied when it is recovered."""

    __slots__ = ()


torch.serialization.add_safe_globals([ModuleState, BufferSnapshot, ModuleSnapshot])
