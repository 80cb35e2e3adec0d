"""The random number generators, as they were when a step was first run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.utils.checkpoint import get_device_states, set_device_states


class RandomState(NamedTuple):
    """The states of torch's generators on the CPU and on other devices.

    Attributes:
        cpu: State of the CPU's generator.
        devices: Indices of the other devices.
        device_states: States of their generators.
        device_type: Type of the other devices; None if there are none.
    """

    cpu: torch.Tensor
    devices: list[int]
    device_states: list[torch.Tensor]
    device_type: str | None

    @classmethod
    def capture(cls, tensors: list[torch.Tensor], last: RandomState | None = None) -> RandomState:
        """Read the generators of the CPU and of the devices of ``tensors``.

        Returns:
            ``last`` itself if no number was drawn since, so that equal states share their memory.
        """
        elsewhere = [tensor for tensor in tensors if tensor.device.type not in ('cpu', 'meta')]
        device_type = elsewhere[0].device.type if elsewhere else None
        devices, states = get_device_states(*elsewhere) if elsewhere else ([], [])
        state = cls(torch.get_rng_state(), list(devices), list(states), device_type)
        return last if last is not None and state.equals(last) else state

    def equals(self, other: RandomState) -> bool:
        """Tell whether both states are the same."""
        return (
            _bytes(self.cpu) == _bytes(other.cpu)
            and self.devices == other.devices
            and list(map(_bytes, self.device_states)) == list(map(_bytes, other.device_states))
        )

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        if self.device_type is not None:
            set_device_states(self.devices, self.device_states, device_type=self.device_type)


def _bytes(state: torch.Tensor) -> bytes:
    # Not torch.equal, which FakeTensorMode does not let pass: states are real tensors there, too.
    content: bytes = state.numpy().tobytes()
    return content


@contextmanager
def preserved(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Restore the generators of the CPU and of the devices of ``tensors`` after the block."""
    state = RandomState.capture(tensors)
    try:
        yield
    finally:
        state.restore()
