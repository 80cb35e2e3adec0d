"""Core's rule as a function of flat lists: what the fused derivatives fall back to.

It serves forward mode and every derivative after the first, so that the mathematics of these
stays written once, in core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel.call import Call
from torchopt_accel.plans import find, replace

Maybe = torch.Tensor | None


def forward(
    call: Call, lr: Maybe, steps: Maybe, tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Compute what the forward operator does: updates, then states role after role."""
    kernel = call.plan.kernel
    grads, params, columns = call.split(tensors)
    rate: Any = call.plan.hyper[0] if lr is None else lr
    if isinstance(rate, torch.Tensor) and rate.dim() == 1:
        rate = list(rate.unbind())
    rule = call.plan.factory(rate)

    changes: dict[type, dict[str, Any]] = {}
    for (owner, field), column in zip(kernel.columns, columns):
        changes.setdefault(owner, {})[field] = list(column)
    if kernel.counted is not None and steps is not None:
        changes[kernel.counted]['steps'] = torch.stack([steps[i] for i in call.positions]) - 1
    state = replace(rule.init(list(grads)), changes)

    updates, state = rule.update(
        list(grads), state, params=list(params) if params else None, inplace=False
    )
    new = [
        tensor for owner, field in kernel.columns for tensor in getattr(find(state, owner), field)
    ]
    return (*updates, *new)


def pullback(
    call: Call,
    wanted: Sequence[bool],
    lr: Maybe,
    steps: Maybe,
    cotangents: Sequence[Maybe],
    tensors: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Compute what the backward operator does, differentiably."""

    def rule(*primals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rate = None if lr is None else primals[-1]
        return forward(call, rate, steps, primals[: len(tensors)])

    primals = tensors if lr is None else (*tensors, lr)
    outputs, transpose = _vjp(rule, *primals)
    found = transpose(_filled(cotangents, outputs))
    grads = found[: len(tensors)]
    kept = [grad for role, want in zip(call.roles(grads), wanted) if want for grad in role]
    return (*kept, found[-1]) if wanted[-1] else tuple(kept)


def pullback_of_pullback(
    call: Call,
    wanted: Sequence[bool],
    lr: Maybe,
    steps: Maybe,
    cotangents: Sequence[Maybe],
    tensors: Sequence[torch.Tensor],
    seconds: Sequence[Maybe],
) -> tuple[Maybe, list[Maybe], list[Maybe]]:
    """Differentiate :func:`pullback`; return the cotangents of lr, cotangents and tensors."""
    count = len(cotangents)
    inputs = [*cotangents, *tensors, lr]
    given = [i for i, tensor in enumerate(inputs) if tensor is not None]

    def rule(*primals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        full: list[Any] = [None] * len(inputs)
        for i, primal in zip(given, primals):
            full[i] = primal
        return pullback(call, wanted, full[-1], steps, full[:count], full[count:-1])

    outputs, transpose = _vjp(rule, *(inputs[i] for i in given))
    full: list[Maybe] = [None] * len(inputs)
    for i, grad in zip(given, transpose(_filled(seconds, outputs))):
        full[i] = grad
    return full[-1], full[:count], full[count:-1]


def _vjp(
    rule: Callable[..., tuple[torch.Tensor, ...]], *primals: Maybe
) -> tuple[tuple[torch.Tensor, ...], Callable[..., tuple[torch.Tensor, ...]]]:
    found: Any = torch.func.vjp(rule, *primals)
    outputs, transpose = found
    return outputs, transpose


def _filled(
    cotangents: Sequence[Maybe], outputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.zeros_like(output) if cotangent is None else cotangent
        for cotangent, output in zip(cotangents, outputs)
    )
