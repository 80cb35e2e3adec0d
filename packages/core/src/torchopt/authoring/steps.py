"""Counts of the steps that parameters have taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchopt import pytree
from torchopt.typing import Params


def zero_steps(params: Params) -> torch.Tensor:
    """Return the int64 vector of steps taken by each leaf of ``params``, all zero."""
    leaves = pytree.tree_leaves(params, none_is_leaf=True)
    return torch.zeros(len(leaves), dtype=torch.int64, device=shared_device(params))


def shared_device(params: Params) -> torch.device:
    """Return the device of all leaves; if they have several, the CPU.

    0-dim tensors on the CPU can be combined with tensors on any device.
    """
    leaves = pytree.tree_leaves(params, none_is_leaf=True)
    devices = {leaf.device for leaf in leaves if leaf is not None}
    return devices.pop() if len(devices) == 1 else torch.device('cpu')


def next_steps(steps: torch.Tensor, gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Return ``steps``, increased by one for every leaf that has a gradient.

    Args:
        steps: An int64 vector with a count for each leaf.
        gradients: The leaves of a tree of gradients; None where a parameter has none.

    Raises:
        ValueError: the number of leaves differs from the number of counts.
    """
    taken = [leaf is not None for leaf in gradients]
    if len(taken) != steps.shape[-1]:
        raise ValueError(
            f'updates have {len(taken)} leaves, but the state was made for {steps.shape[-1]} '
            'parameters: pass one gradient, or None, for each'
        )
    if all(taken):
        return steps + 1
    # A blocking copy would wait for the device.
    return steps + torch.tensor(taken).to(steps.device, non_blocking=True)


def count_steps(steps: torch.Tensor, gradients: Sequence[torch.Tensor | None]) -> None:
    """Write :func:`next_steps` into ``steps``."""
    if all([leaf is not None for leaf in gradients]):
        steps.add_(1)
    else:
        steps.copy_(next_steps(steps, gradients))


def advance(
    steps: torch.Tensor, gradients: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return :func:`next_steps`, and the same counts as floats for bias corrections."""
    steps = next_steps(steps, gradients)
    return steps, as_float(steps)


def as_float(steps: torch.Tensor) -> torch.Tensor:
    """Return step counts in float64, or in the widest type that their device has.

    A power with an integer tensor as its exponent would be rounded to float32.
    """
    return steps.to(torch.float32 if steps.device.type == 'mps' else torch.float64)


def largest(steps: torch.Tensor) -> torch.Tensor:
    """Return the largest count as a float, 0 if there is none: the number of updates made."""
    return as_float(steps.amax() if steps.numel() else steps.new_zeros(()))
