"""Core's rule as a function of the flat list, for every derivative that no kernel computes.

Forward mode and all derivatives after the first take it, so that their mathematics stays written
once, in core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel.roles import Call, Tensors, join
from torchopt_accel.scalars import Maybe, Scalars
from torchopt_accel.specs import StateParts

Outputs = tuple[torch.Tensor, ...]


def forward(call: Call, scalars: Scalars, tensors: Tensors) -> Outputs:
    """Compute what the forward operator does: updates, then states role after role."""
    spec = call.spec
    lr, steps, numbers = scalars
    grads, params, *columns = call.split(tensors)
    rate: Any = spec.lr if lr is None else lr
    kept = [] if numbers is None else [_by_leaf(call, numbers)]
    if lr is not None and spec.numbers is not None and spec.numbers.has_rate:
        kept.append(lr)
        rate = 0.0  # only later steps depend on it
    elif isinstance(rate, torch.Tensor) and rate.dim() == 1:
        rate = list(rate.unbind())
    rule = spec.factory(rate)

    taken = None
    if spec.counted is not None and steps is not None:
        taken = _by_leaf(call, steps) - 1
    before = StateParts([list(column) for column in columns], taken, None, kept)
    state = spec.replace(rule.init(list(grads)), before)

    updates, state = rule.update(
        list(grads), state, params=list(params) if params else None, inplace=False
    )
    return (*updates, *join(spec.trees(state)))


def _by_leaf(call: Call, vector: torch.Tensor) -> torch.Tensor:
    return torch.stack([vector[position] for position in call.positions])


def pullback(
    call: Call,
    wanted: Sequence[bool],
    scalars: Scalars,
    cotangents: Sequence[Maybe],
    tensors: Tensors,
) -> Outputs:
    """Compute what the backward operator does, differentiably."""

    def rule(*primals: torch.Tensor) -> Outputs:
        rate = None if scalars.lr is None else primals[-1]
        return forward(call, scalars._replace(lr=rate), primals[: len(tensors)])

    primals = tensors if scalars.lr is None else (*tensors, scalars.lr)
    outputs, transpose = _vjp(rule, *primals)
    grads = transpose(_filled(cotangents, outputs))
    kept = call.keep(grads[: len(tensors)], wanted)
    return (*kept, grads[-1]) if wanted[-1] else tuple(kept)


def pullback_of_pullback(
    call: Call,
    wanted: Sequence[bool],
    scalars: Scalars,
    given: Sequence[Maybe],
    seconds: Sequence[Maybe],
) -> tuple[Maybe, list[Maybe]]:
    """Differentiate :func:`pullback`.

    Args:
        call: The step.
        wanted: The cotangents that :func:`pullback` returned.
        scalars: The step's scalars.
        given: The cotangents and tensors that :func:`pullback` took.
        seconds: Cotangents of its results; None counts as zeros.

    Returns:
        The cotangent of ``lr``, and the cotangents of ``given``.
    """
    inputs = [*given, scalars.lr]
    present = [i for i, tensor in enumerate(inputs) if tensor is not None]

    def rule(*primals: torch.Tensor) -> Outputs:
        full: list[Any] = [None] * len(inputs)
        for i, primal in zip(present, primals):
            full[i] = primal
        *flat, rate = full
        return pullback(call, wanted, scalars._replace(lr=rate), *call.separate(flat))

    outputs, transpose = _vjp(rule, *(inputs[i] for i in present))
    full: list[Maybe] = [None] * len(inputs)
    for i, grad in zip(present, transpose(_filled(seconds, outputs))):
        full[i] = grad
    *grads, lr_grad = full
    return lr_grad, grads


def _vjp(
    rule: Callable[..., Outputs], *primals: Maybe
) -> tuple[Outputs, Callable[[Outputs], Outputs]]:
    found: Any = torch.func.vjp(rule, *primals)
    outputs, transpose = found
    return outputs, transpose


def _filled(cotangents: Sequence[Maybe], outputs: Sequence[torch.Tensor]) -> Outputs:
    return tuple(
        torch.zeros_like(output) if cotangent is None else cotangent
        for cotangent, output in zip(cotangents, outputs)
    )
