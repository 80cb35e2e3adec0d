"""The operators ``torchopt::<rule>_forward``, ``_forward_`` (in place) and ``_backward``.

All three take lists with one tensor for every leaf: gradients, parameters (an empty list for a
rule without weight decay) and states, role after role. They know nothing of autograd, which is
in ``step.py``; they are what profilers, fake tensors and the compiler see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel.launch import (
    HAS_CUDA,
    RULES,
    STATES,
    Layout,
    Mismatch,
    allocate,
    contiguous,
    launch,
    layout_of,
    overlap,
    pointers,
)

Tensors = Sequence[torch.Tensor]
Maybe = torch.Tensor | None

_COMMON = 'Tensor? steps, int[] positions, Tensor? lr, float[] hyper'
_SCHEMAS = {
    'forward': f'(Tensor[] grads, Tensor[] params, Tensor[] states, {_COMMON}) -> Tensor[]',
    'forward_': f'(Tensor(a!)[] grads, Tensor[] params, Tensor(b!)[] states, {_COMMON}) -> ()',
    'backward': (
        '(Tensor?[] cotangents, Tensor[] grads, Tensor[] params, Tensor[] states, '
        f'{_COMMON}, bool[] wanted) -> Tensor[]'
    ),
}


def _forward(rule: str) -> Callable[..., list[torch.Tensor]]:
    count = STATES[rule]

    def forward(
        grads: Tensors,
        params: Tensors,
        states: Tensors,
        steps: Maybe,
        positions: Sequence[int],
        lr: Maybe,
        hyper: Sequence[float],
    ) -> list[torch.Tensor]:
        if not grads:
            return []
        roles = (grads, params, *_columns(count, states))
        layout = layout_of(*roles)
        steps, lr = _scalars(layout, steps, positions, lr)
        results = [allocate(layout) for _ in range(count + 1)]
        launch(
            rule,
            layout,
            backward=False,
            inputs=[*map(contiguous, roles)],
            outputs=[addresses for _, addresses in results],
            steps=steps,
            positions=positions,
            lr=lr,
            hyper=hyper,
        )
        return [tensor for tensors, _ in results for tensor in tensors]

    return forward


def _forward_inplace(rule: str) -> Callable[..., None]:
    count = STATES[rule]

    def forward_(
        grads: Tensors,
        params: Tensors,
        states: Tensors,
        steps: Maybe,
        positions: Sequence[int],
        lr: Maybe,
        hyper: Sequence[float],
    ) -> None:
        if not grads:
            return
        columns = _columns(count, states)
        layout = layout_of(grads, params, *columns)
        written = [*grads, *states]
        if not all(tensor.is_contiguous() for tensor in written):
            raise ValueError('only contiguous tensors can be written in place')
        params = contiguous(params)
        if overlap([*written, *params]):
            raise ValueError('tensors that share memory cannot be written in place')
        steps, lr = _scalars(layout, steps, positions, lr)
        torch.autograd.graph.increment_version(
            [tensor for tensor in written if not tensor.is_inference()]
        )
        launch(
            rule,
            layout,
            backward=False,
            inputs=(grads, params, *columns),
            outputs=[*map(pointers, (grads, *columns))],
            steps=steps,
            positions=positions,
            lr=lr,
            hyper=hyper,
        )

    return forward_


def _backward(rule: str) -> Callable[..., list[torch.Tensor]]:
    count = STATES[rule]

    def backward(
        cotangents: Sequence[Maybe],
        grads: Tensors,
        params: Tensors,
        states: Tensors,
        steps: Maybe,
        positions: Sequence[int],
        lr: Maybe,
        hyper: Sequence[float],
        wanted: Sequence[bool],
    ) -> list[torch.Tensor]:
        if not grads:
            return []
        columns = _columns(count, states)
        received = _columns(count + 1, cotangents)
        layout = layout_of(grads, params, *columns, *received)
        steps, rate = _scalars(layout, steps, positions, lr)
        *roles, want_lr = wanted
        results: list[tuple[list[torch.Tensor], list[int]]] = [
            allocate(layout) if want else ([], []) for want in roles
        ]
        lr_grad = None
        if want_lr:
            if rate is None:
                raise ValueError('the cotangent of lr is wanted, but lr is not given')
            lr_grad = torch.zeros_like(rate)
        launch(
            rule,
            layout,
            backward=True,
            inputs=[*map(contiguous, (*received, grads, params, *columns))],
            outputs=[addresses for _, addresses in results],
            steps=steps,
            positions=positions,
            lr=rate,
            hyper=hyper,
            lr_grad=lr_grad,
        )
        flat = [tensor for tensors, _ in results for tensor in tensors]
        if lr_grad is not None and lr is not None:
            flat.append(lr_grad.to(lr.device, lr.dtype))
        return flat

    return backward


def _forward_fake(
    grads: Tensors, params: Tensors, states: Tensors, *rest: Any
) -> list[torch.Tensor]:
    return [_like(tensor) for tensor in (*grads, *states)]


def _forward_inplace_fake(grads: Tensors, params: Tensors, states: Tensors, *rest: Any) -> None:
    return None


def _backward_fake(
    cotangents: Sequence[Maybe],
    grads: Tensors,
    params: Tensors,
    states: Tensors,
    steps: Maybe,
    positions: Sequence[int],
    lr: Maybe,
    hyper: Sequence[float],
    wanted: Sequence[bool],
) -> list[torch.Tensor]:
    *roles, want_lr = wanted
    flat = [_like(tensor) for want in roles if want for tensor in grads]
    if want_lr and lr is not None and grads:
        flat.append(_like(lr))
    return flat


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _columns(count: int, tensors: Sequence[Any]) -> list[Sequence[Any]]:
    """Take a list apart into its ``count`` roles."""
    size, rest = divmod(len(tensors), count) if count else (0, len(tensors))
    if rest:
        raise Mismatch(f'{len(tensors)} tensors do not make {count} roles')
    return [tensors[role * size : (role + 1) * size] for role in range(count)]


def _scalars(
    layout: Layout, steps: Maybe, positions: Sequence[int], lr: Maybe
) -> tuple[Maybe, Maybe]:
    """Compare step counts and learning rate with the tensors, and take them to their device."""
    device, count = layout.device, len(layout.shapes)
    if steps is not None:
        fits = len(positions) == count and 0 <= min(positions) <= max(positions)
        if not fits or max(positions) >= steps.numel() or steps.dtype != torch.int64:
            raise ValueError(
                f'each of the {count} tensors needs its position in the int64 vector steps'
            )
        steps = steps.to(device, non_blocking=True).contiguous()
    if lr is not None:
        if lr.shape not in ((), (count,)) or not lr.is_floating_point():
            raise ValueError(
                f'lr must be a floating-point scalar or vector of {count}, '
                f'got {lr.dtype} of shape {tuple(lr.shape)}'
            )
        lr = lr.to(device, torch.float64, non_blocking=True).contiguous()
    return steps, lr


def _register(library: torch.library.Library) -> None:
    for rule in RULES:
        operators: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
            'forward': (_forward(rule), _forward_fake),
            'forward_': (_forward_inplace(rule), _forward_inplace_fake),
            'backward': (_backward(rule), _backward_fake),
        }
        for kind, (implementation, fake) in operators.items():
            name = f'{rule}_{kind}'
            library.define(name + _SCHEMAS[kind])
            library.impl(name, implementation, 'CPU')
            if HAS_CUDA:
                library.impl(name, implementation, 'CUDA')
            torch.library.register_fake(f'torchopt::{name}', fake, lib=library)


# The library lives as long as this module: with it the operators would go.
_LIBRARY = torch.library.Library('torchopt', 'DEF')
_register(_LIBRARY)

FORWARD = {rule: getattr(torch.ops.torchopt, f'{rule}_forward').default for rule in RULES}
FORWARD_INPLACE = {rule: getattr(torch.ops.torchopt, f'{rule}_forward_').default for rule in RULES}
BACKWARD = {rule: getattr(torch.ops.torchopt, f'{rule}_backward').default for rule in RULES}
