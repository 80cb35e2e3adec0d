"""The tensors that a module holds, and others in their places for one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from torchopt.authoring.module_slots import ParameterSlot
from torchopt.authoring.torch_internals import is_transformed


class _BufferSlot(NamedTuple):
    """A place that holds a buffer; see :class:`~torchopt.authoring.module_slots.ParameterSlot`."""

    owner: nn.Module
    name: str

    def read(self) -> torch.Tensor | None:
        return self.owner._buffers[self.name]

    def write(self, tensor: torch.Tensor | None) -> None:
        self.owner._buffers[self.name] = tensor


class Written(NamedTuple):
    """A buffer that has changed.

    Attributes:
        position: Its position among the tensors of the module.
        assigned: Whether the module holds another tensor now, and not the same one, written to.
    """

    position: int
    assigned: bool


class HeldTensors:
    """The parameters and buffers of a module and its submodules, each tensor once.

    Attributes:
        tensors: What the module holds now: what ``torch.func.functional_call`` has put there, if
            that is at work.
        count: The number of tensors.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self.tensors: list[torch.Tensor] = []
        self.count = 0
        self._places: list[tuple[str, int]] = []
        self._slots: list[tuple[int, ParameterSlot | _BufferSlot]] = []
        self._buffers: dict[int, _BufferSlot] = {}
        positions: dict[int, int] = {}
        for prefix, owner in module.named_modules() if module is not None else ():
            slots: list[ParameterSlot | _BufferSlot] = [
                *(ParameterSlot(owner, name) for name in owner._parameters),
                *(_BufferSlot(owner, name) for name in owner._buffers),
            ]
            for slot in slots:
                tensor = slot.read()
                if tensor is None:
                    continue
                position = positions.setdefault(id(tensor), len(self.tensors))
                if position == len(self.tensors):
                    self.tensors.append(tensor)
                    # A buffer that requires grad is a parameter by another name.
                    if isinstance(slot, _BufferSlot) and not tensor.requires_grad:
                        self._buffers[position] = slot
                self._slots.append((position, slot))
                self._places.append((f'{prefix}.{slot.name}' if prefix else slot.name, position))
        self.count = len(self.tensors)

    def forget(self) -> None:
        """Give up the references to the tensors, which the graph holds as long as it needs them."""
        self.tensors = []

    def places(self) -> list[tuple[str, int]]:
        """Return the name of every place that holds a tensor, and the tensor's position."""
        return self._places

    def inputs(self) -> list[torch.Tensor]:
        """Return the tensors, with clones of the buffers, which the module may write into."""
        return [
            tensor.clone() if position in self._buffers else tensor
            for position, tensor in enumerate(self.tensors)
        ]

    def is_constant(self, position: int) -> bool:
        """Tell whether the tensor at ``position`` is a buffer that does not require grad."""
        return position in self._buffers

    @contextmanager
    def replaced(
        self, tensors: Sequence[torch.Tensor], known: Sequence[Written] | None = None
    ) -> Iterator[list[tuple[Written, torch.Tensor]]]:
        """Let the module hold ``tensors`` in the block.

        Args:
            tensors: As many as the module holds.
            known: What the first run has written, which later ones write, too; None in the first.

        Yields:
            An empty list. After the block it has the buffers that the block has written, with
            their new values. ``tensors`` themselves are not written.

        Raises:
            RuntimeError: the block sets a buffer to None, or to a tensor with a graph.
        """
        copies = [
            tensor.clone() if position in self._buffers else tensor
            for position, tensor in enumerate(tensors)
        ]
        before = [slot.read() for _, slot in self._slots]
        versions = {position: copies[position]._version for position in self._buffers}
        written: list[tuple[Written, torch.Tensor]] = []
        try:
            for position, slot in self._slots:
                slot.write(copies[position])
            yield written
            if known is not None:
                written += [(buffer, self._now(buffer.position)) for buffer in known]
                return
            for position in self._buffers:
                now = self._now(position)
                assigned = now is not copies[position]
                if (
                    assigned
                    or now._version != versions[position]
                    or _is_another_average(now, tensors[position])
                ):
                    written.append((Written(position, assigned), self._without_graph(position)))
        finally:
            for (_, slot), tensor in zip(self._slots, before):
                slot.write(tensor)

    def _now(self, position: int) -> torch.Tensor:
        now = self._buffers[position].read()
        if now is None:
            raise RuntimeError(
                f'a block of remat sets its buffer {self._name(position)} to None: let it hold a '
                'tensor'
            )
        return now

    def _without_graph(self, position: int) -> torch.Tensor:
        now = self._now(position)
        if now.requires_grad:
            raise RuntimeError(
                f'a block of remat writes a tensor with a graph into its buffer '
                f'{self._name(position)}, where the gradient would be lost: return the tensor as a '
                'result, or write tensor.detach()'
            )
        return now

    def _name(self, position: int) -> str:
        return next(name for name, place in self._places if place == position)

    def write(self, buffer: Written, value: torch.Tensor) -> None:
        """Write a buffer's new value into the module, in the way in which the block did it."""
        if not buffer.assigned:
            with torch.no_grad():
                self.tensors[buffer.position].copy_(value)
            return
        for place, slot in self._slots:
            if place == buffer.position:
                slot.write(value.detach())


def _is_another_average(now: torch.Tensor, before: torch.Tensor) -> bool:
    # torch.batch_norm does not count that it writes into running averages, which have 1 dimension.
    if now.dim() != 1 or not now.is_floating_point():
        return False
    return is_transformed(now) or not torch.equal(now, before)
