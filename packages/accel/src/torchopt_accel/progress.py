"""What a step takes and changes besides tensors: learning rate, step counts, numbers of leaves."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

from torchopt.authoring.rates import beside
from torchopt.authoring.steps import as_float, largest
from torchopt_accel.roles import Mismatch
from torchopt_accel.scalars import Maybe
from torchopt_accel.specs import Spec, StateParts


def fit_kernels(numbers: Sequence[Any], count: int) -> bool:
    """Tell whether kernels take the numbers of so many leaves, of which the first are constants."""
    for vector in numbers:
        if not isinstance(vector, torch.Tensor) or vector.dtype != torch.float64:
            return False
        if vector.shape != (count,):
            return False
    return not numbers[0].requires_grad


def next_numbers(
    spec: Spec, before: StateParts, steps: torch.Tensor, gradients: Sequence[Any]
) -> Sequence[torch.Tensor]:
    """Return the numbers of all leaves after a step.

    Args:
        spec: The kernel, whose rule keeps numbers.
        before: The parts of the state before the step.
        steps: Step counts after the step.
        gradients: The gradients; a leaf without one keeps its numbers.

    Raises:
        Mismatch: a schedule returns something that kernels don't take.
    """
    if spec.numbers is None or before.steps is None:
        return before.numbers
    counts = as_float(steps)
    rate: tuple[Any, ...] = ()
    if spec.numbers.has_rate:
        lr = spec.lr
        if spec.schedule is not None:
            lr = _rate(spec.schedule(largest(before.steps)), steps.device)
        rate = (beside(counts, lr),)
    new = spec.numbers.advance(counts, *rate, *before.numbers)
    if any([gradient is None for gradient in gradients]):
        stepped = steps != before.steps
        new = [torch.where(stepped, *pair) for pair in zip(new, before.numbers)]
    return new


def rate_of(spec: Spec, parts: StateParts) -> Maybe:
    """Return the learning rate of the next step, if it is a tensor: 0-dim, or one entry per leaf.

    Raises:
        Mismatch: a schedule returns something that kernels don't take.
    """
    if spec.numbers is not None and spec.numbers.has_rate:
        return parts.numbers[1]
    updates_seen = parts.updates_seen
    if spec.schedule is not None and updates_seen is not None:
        return _rate(spec.schedule(as_float(updates_seen)), updates_seen.device)
    return spec.lr if isinstance(spec.lr, torch.Tensor) else None


def _rate(value: Any, device: torch.device) -> torch.Tensor:
    """Return the value of a schedule as a tensor."""
    if isinstance(value, Real):
        # Filled on the device: a CUDA graph can't hold a copy from the host.
        return torch.full((), float(value), dtype=torch.float64, device=device)
    if not isinstance(value, torch.Tensor) or value.dim() != 0:
        raise Mismatch('kernels take a number or a 0-dim tensor from a schedule')
    return value if value.is_floating_point() else value.to(torch.float64)
