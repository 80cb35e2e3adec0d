"""Norms of gradients of every kind that a graph may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass
class Size:
    """Joint norm and finiteness of tensors, as they come in.

    Attributes:
        total: Norm of all elements together; None before the first tensor.
        finite: Whether all elements are finite.
    """

    total: torch.Tensor | None = None
    finite: torch.Tensor | None = None

    def add(self, tensor: torch.Tensor) -> None:
        """Count the elements of ``tensor`` in."""
        values = _values(tensor)
        norm, finite = torch.linalg.vector_norm(values), torch.isfinite(values).all()
        if self.total is None or self.finite is None:
            self.total, self.finite = norm, finite
        else:
            # Parameters may be on several devices.
            self.total = torch.hypot(self.total, norm.to(self.total.device))
            self.finite = self.finite & finite.to(self.finite.device)

    @property
    def norm(self) -> float | None:
        """The norm of all elements together; None if there was no tensor."""
        return None if self.total is None else float(self.total)

    @property
    def is_finite(self) -> bool:
        """Whether no element was NaN or infinite."""
        return self.finite is None or bool(self.finite)


def is_finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Tell whether all elements of ``tensors`` are finite."""
    return all(bool(torch.isfinite(_values(t)).all()) for t in tensors if t is not None)


def is_zero(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Tell whether all elements of ``tensors`` are 0; a missing gradient is 0."""
    return not any(bool(_values(t).any()) for t in tensors if t is not None)


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements as a real tensor in which their squares neither over- nor underflow."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.to(torch.float32 if tensor.device.type == 'mps' else torch.float64)
