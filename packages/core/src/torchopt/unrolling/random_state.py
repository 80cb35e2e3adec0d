"""Random numbers and autocast, as they were when a step was first run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch.utils.checkpoint import get_device_states, set_device_states


class RandomState(NamedTuple):
    """The states of the CPU's generator and of those of other devices.

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
            ``last``, if no random number was drawn since, so that many equal states cost one.
        """
        elsewhere = [tensor for tensor in tensors if tensor.device.type not in ('cpu', 'meta')]
        device_type = elsewhere[0].device.type if elsewhere else None
        devices, states = get_device_states(*elsewhere) if elsewhere else ([], [])
        state = cls(torch.get_rng_state(), list(devices), list(states), device_type)
        return last if last is not None and state.equals(last) else state

    def equals(self, other: RandomState) -> bool:
        """Tell whether both states are the same."""
        return (
            torch.equal(self.cpu, other.cpu)
            and self.devices == other.devices
            and all(map(torch.equal, self.device_states, other.device_states))
        )

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        if self.device_type is not None:
            set_device_states(self.devices, self.device_states, device_type=self.device_type)


@contextmanager
def preserved(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Leave the generators after the block as they were before."""
    state = RandomState.capture(tensors)
    try:
        yield
    finally:
        state.restore()


class Autocast(NamedTuple):
    """The autocast settings of the devices of some tensors.

    Attributes:
        settings: Device type, whether autocast is on, and its dtype.
    """

    settings: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def capture(cls, tensors: Iterable[torch.Tensor]) -> Autocast:
        """Read the settings of the CPU and of the devices of ``tensors``."""
        kinds = dict.fromkeys(['cpu', *(tensor.device.type for tensor in tensors)])
        return cls(
            tuple(
                (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in kinds
                if torch.amp.is_autocast_available(kind)
            )
        )

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Set them (again), in forward and backward pass alike."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.settings:
                # The cache would hold the casts of every step until the last is done.
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(
                        torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)
                    )
            yield

    def off(self) -> Autocast:
        """Return the settings with which no device casts."""
        return Autocast(tuple((kind, False, dtype) for kind, _, dtype in self.settings))
