"""States that are one number per parameter: a vector, and its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt.authoring.describe import describe


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


def require_vector(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a state; raise ValueError unless there is one for each parameter."""
    if not isinstance(value, torch.Tensor) or value.shape != like.shape:
        raise ValueError(
            f'{name} of the state must be a vector of {len(like)} numbers, one for each parameter, '
            f'got {describe(value)}: take the options with which the state was made'
        )
    return value


def lie_in(vector: torch.Tensor, numbers: Sequence[Any]) -> bool:
    """Tell whether the tensors are the entries of the vector, in its memory, without a graph."""
    if type(vector) is not torch.Tensor or not vector.is_contiguous():
        return False
    start, size = vector.data_ptr(), vector.element_size()
    return all(
        [
            type(number) is torch.Tensor
            and number.dtype == vector.dtype
            and not number.requires_grad
            and number.data_ptr() == start + position * size
            for position, number in enumerate(numbers)
        ]
    )
