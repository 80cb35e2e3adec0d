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
        value: The tensor that the module holds now.
    """

    position: int
    assigned: bool
    value: torch.Tensor


class HeldTensors:
    """The parameters and buffers of a module and its submodules, each tensor once.

    Attributes:
        tensors: What the module holds now: what ``torch.func.functional_call`` has put there, if
            that is at work.
        names: The first name of each.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self.tensors: list[torch.Tensor] = []
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
    ) -> Iterator[list[Written]]:
        """Let the module hold ``tensors`` in the block.

        Args:
            tensors: As many as the module holds.
            known: What the first run has written, which later ones write, too; None in the first.

        Yields:
            An empty list. After the block it has the buffers that the block has written.
            ``tensors`` themselves are not written.
        """
        copies = [
            tensor.clone() if position in self._buffers else tensor
            for position, tensor in enumerate(tensors)
        ]
        before = [slot.read() for _, slot in self._slots]
        versions = {position: copies[position]._version for position in self._buffers}
        written: list[Written] = []
        try:
            for position, slot in self._slots:
                slot.write(copies[position])
            yield written
            if known is not None:
                written += [old._replace(value=self._now(old.position)) for old in known]
                return
            for position in self._buffers:
                now = self._now(position)
                assigned = now is not copies[position]
                if (
                    assigned
                    or now._version != versions[position]
                    or _is_another_average(now, tensors[position])
                ):
                    written.append(Written(position, assigned, now))
        finally:
            for (_, slot), tensor in zip(self._slots, before):
                slot.write(tensor)

    def _now(self, position: int) -> torch.Tensor:
        now = self._buffers[position].read()
        if now is None:
            name = next(name for name, place in self._places if place == position)
            raise RuntimeError(
                f'a block of remat sets its buffer {name} to None: let it hold a tensor'
            )
        return now

    def write(self, position: int, assigned: bool, value: torch.Tensor) -> None:
        """Write a buffer's new value into the module, in the way in which the block did it."""
        if not assigned:
            with torch.no_grad():
                self.tensors[position].copy_(value)
            return
        for place, slot in self._slots:
            if place == position:
                slot.write(value.detach())


def _is_another_average(now: torch.Tensor, before: torch.Tensor) -> bool:
    # torch.batch_norm does not count that it writes into running averages, which have 1 dimension.
    if now.dim() != 1 or not now.is_floating_point():
        return False
    return is_transformed(now) or not torch.equal(now, before)
