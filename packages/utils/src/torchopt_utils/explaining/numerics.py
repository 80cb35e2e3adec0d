"""Findings about the numbers: NaN, zero, vanishing and exploding cotangents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from torchopt_utils.explaining.graph import Graph
from torchopt_utils.explaining.operations import dead_ends, first_not_finite
from torchopt_utils.explaining.report import Finding, StepReport

RATIO = 1e4
"""From one end of the steps to the other, a norm that changes by more vanishes or explodes."""


def of_the_steps(steps: Sequence[StepReport]) -> list[Finding]:
    """Say whether the cotangent vanishes or explodes, and from where on."""
    known = [(step.index, step.norm) for step in reversed(steps) if step.norm is not None]
    known = [(index, norm) for index, norm in known if math.isfinite(norm)]
    if len(known) < 2:
        return []
    (last, at_last), (first, at_first) = known[0], known[-1]
    if at_last == 0:
        return []
    if at_first < at_last / RATIO:
        since = next(index for index, norm in known if norm < at_last / RATIO)
        return [
            Finding(
                'vanishing',
                f'The cotangent vanishes on its way back: {at_last:.2g} after step {last}, '
                f'{at_first:.2g} after step {first}. From step {since} on, backwards, it is below '
                f'1/{RATIO:.0f} of what it was: earlier steps hardly count.',
                'fewer inner steps, or a meta-parameter that acts in the last ones',
            )
        ]
    if at_first > at_last * RATIO:
        since = next(index for index, norm in known if norm > at_last * RATIO)
        return [
            Finding(
                'exploding',
                f'The cotangent explodes on its way back: {at_last:.2g} after step {last}, '
                f'{at_first:.2g} after step {first}. From step {since} on, backwards, it is above '
                f'{RATIO:.0f} times what it was.',
                'a smaller inner learning rate, fewer inner steps, or Truncated(k); with Adam and '
                'its kin eps_root=1e-8, if gradients are 0 or tiny',
            )
        ]
    return []


def of_not_finite(
    loss: torch.Tensor, wanted: Sequence[torch.Tensor], graph: Graph, steps: int
) -> Finding:
    """Say which operation makes NaN or infinity."""
    if not torch.isfinite(loss.detach()).all():
        return Finding(
            'not-finite',
            f'The loss itself is {float(loss.detach().real):.3g}: look at the forward pass first.',
            'print the inner loss at every step; smaller learning rates, or a larger eps',
        )
    operation = first_not_finite(loss, wanted, graph)
    if operation is None:
        text = 'A gradient is NaN or infinite, although every operation passes finite numbers.'
    else:
        text = (
            'On the way back, the first operation that makes NaN or infinity of finite numbers '
            f'is {operation.place(steps)}.'
        )
    change = 'torch.autograd.set_detect_anomaly(True)  # explain then names the line'
    return Finding('not-finite', text, '' if operation and operation.line else change)


def of_zero(
    loss: torch.Tensor, tensor: torch.Tensor, bit: int, graph: Graph, steps: int
) -> Finding:
    """Say which operations pass nothing towards a tensor whose gradient is 0."""
    found = dead_ends(loss, tensor, bit, graph)
    if not found:
        return Finding(
            'cancelled',
            'The gradient is 0, although every operation on the way passes something: the '
            'contributions cancel, or the gradient of the loss is 0 to begin with.',
        )
    places = '; '.join(operation.place(steps) for operation in found)
    return Finding(
        'zero',
        f'The gradient is 0. What flows back ends in {places}.',
        'replace what is flat there: a sign, a dead ReLU, a clamp, a factor of 0',
    )


def of_precision(tensor: torch.Tensor, norm: float) -> Finding | None:
    """Say whether a small gradient may have lost digits in a 16-bit dtype."""
    if tensor.dtype not in (torch.float16, torch.bfloat16) or norm == 0:
        return None
    smallest = torch.finfo(tensor.dtype).smallest_normal
    if norm >= 100 * smallest * tensor.numel() ** 0.5:
        return None
    return Finding(
        'low-precision',
        f'The gradient is close to the smallest number of {tensor.dtype} ({smallest:.2g}), so '
        'that entries of it may have become 0.',
        'float32 parameters, or a larger outer loss (and a smaller outer learning rate)',
    )
