"""A few elements of a carry, by which a step that is run again after a kill is recognised."""

from __future__ import annotations

import torch

from torchopt.unrolling.leaves import Leaves, is_differentiable
from torchopt.unrolling.storage.parts import take_apart

_MOST_LEAVES = 16
_MOST_ELEMENTS = 512


def sample_of(carry: Leaves) -> list[torch.Tensor]:
    """Return the first elements of the first tensors of ``carry``, on the CPU."""
    tensors = [leaf for leaf in carry if is_differentiable(leaf) and leaf.numel()]
    plain = [part for tensor in tensors[:_MOST_LEAVES] for part in take_apart(tensor)[0]]
    return [
        part.detach().reshape(-1)[:_MOST_ELEMENTS].to('cpu', copy=True)
        for part in plain
        if part.layout is torch.strided and part.numel()
    ]


def require_same(number: int, before: Leaves, after: Leaves, expected: list[torch.Tensor]) -> None:
    """Raise if a step gave another result than in the process that was killed.

    Rounding may differ, by a thousandth of the step.

    Args:
        number: Number of the step.
        before: Leaves of the carry before the step.
        after: Leaves of the carry that it returned now.
        expected: The sample of the carry that it returned then.

    Raises:
        RuntimeError: it did.
    """
    for old, then, now in zip(sample_of(before), expected, sample_of(after)):
        if torch.equal(then, now):
            continue
        step = _norm(then - old)
        rounding = 64 * torch.finfo(then.dtype).eps * _norm(then)
        # Where the run went to infinity or NaN, the comparison is False.
        if _norm(now - then) > 1e-3 * step + rounding:
            raise RuntimeError(
                f'step {number} of unroll gives another result than in the run that was '
                'interrupted, whose files are in the folder of Disk. It depends on something '
                'beside its arguments that has changed since: a file, a setting, an object. Run it '
                'as it was then, or empty the folder to begin again'
            )


def _norm(tensor: torch.Tensor) -> float:
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    norm: float = torch.linalg.vector_norm(wide).item()
    return norm
