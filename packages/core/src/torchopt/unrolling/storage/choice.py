"""What users choose from."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torchopt.unrolling.storage.base import Storage
from torchopt.unrolling.storage.device import OnDevice
from torchopt.unrolling.storage.disk import Disk
from torchopt.unrolling.storage.host import OnHost

Place: TypeAlias = Literal['device', 'cpu'] | Disk
"""Where the carries of an unroll are kept until the backward pass needs them.

- ``'device'``: where the step left them. Nothing is copied.
- ``'cpu'``: in the memory of the host. On CUDA the copies run beside the steps, in pinned memory.
  For tensors on the CPU this is the same as ``'device'``.
- ``Disk(folder)``: in files. One or two carries are in memory, whatever the number of steps, and a
  run that was killed goes on where it was.
"""

_NAMED: dict[str, type[Storage]] = {'device': OnDevice, 'cpu': OnHost}


def storage_named(place: Place) -> Storage:
    """Return the storage that a user chose.

    Raises:
        ValueError: there is no such storage.
    """
    if isinstance(place, Storage):
        return place
    if not isinstance(place, str) or place not in _NAMED:
        raise ValueError(f"storage must be 'device', 'cpu' or Disk(folder), got {place!r}")
    return _NAMED[place]()
