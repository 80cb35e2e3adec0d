"""First values of the state tensors that do not start from 0."""

from __future__ import annotations

from typing import Any

import torch

from torchopt.authoring.per_tensor import filled_like, map_updates
from torchopt.typing import Params, Scalar


def initial_like(params: Params, value: Scalar, *, requires_grad: bool) -> Any:
    """Return a tree of new tensors like ``params``, each filled with ``value``.

    They are differentiable with respect to a ``value`` that is a tensor.
    """
    if not isinstance(value, torch.Tensor):
        return filled_like(params, value, requires_grad=requires_grad)
    zeros = filled_like(params, requires_grad=requires_grad)
    return map_updates(lambda zero: zero + value, zeros)
