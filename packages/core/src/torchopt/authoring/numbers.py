"""States that are one number per parameter: a vector, and its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def joined(numbers: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the vector of these numbers.

    Entries of one vector that lie side by side, as :meth:`torch.Tensor.unbind` returns them, give
    this vector itself: what is written there is written to them.
    """
    first = numbers[0] if numbers else None
    if type(first) is torch.Tensor and first.dtype == dtype and first.device == device:
        last = first.storage_offset() + len(numbers)
        if last * first.element_size() <= first.untyped_storage().nbytes():
            vector = first.as_strided((len(numbers),), (1,))
            if lie_in(vector, numbers):
                return vector
    tensors = [torch.as_tensor(number).to(device, dtype) for number in numbers]
    return torch.stack(tensors) if tensors else torch.zeros(0, dtype=dtype, device=device)


def lie_in(vector: torch.Tensor, numbers: Sequence[Any]) -> bool:
    """Tell whether the tensors are the entries of the vector, in its memory."""
    if type(vector) is not torch.Tensor or not vector.is_contiguous():
        return False
    start, size = vector.data_ptr(), vector.element_size()
    return all(
        [
            type(number) is torch.Tensor
            and number.dtype == vector.dtype
            and number.data_ptr() == start + position * size
            for position, number in enumerate(numbers)
        ]
    )
