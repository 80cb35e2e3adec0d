"""The operators ``torchopt::<rule>_forward``, ``_forward_``, ``_step_`` and ``_backward``.

``_forward_`` writes updates and new states into the tensors that it was given, ``_step_`` new
parameters and states. All take lists with one tensor for every leaf: gradients, parameters (but
for ``_step_`` an empty list for a rule without weight decay) and states, role after role. They
know nothing of autograd, which is in ``step.py``; they are what fake tensors and the compiler
see. Where nothing looks on, a step calls what is behind them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel.internals import dispatching
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
    'step_': f'(Tensor[] grads, Tensor(a!)[] params, Tensor(b!)[] states, {_COMMON}) -> ()',
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
        params = contiguous(params)
        steps, lr = _scalars(layout, steps, positions, lr)
        written = [*grads, *states]
        _require_writable(written, params)
        _increment_versions(written)
        launch(
            rule,
            layout,
            inputs=(grads, params, *columns),
            outputs=[*map(pointers, (grads, *columns))],
            steps=steps,
            positions=positions,
            lr=lr,
            hyper=hyper,
        )

    return forward_


def _stage(rule: str) -> Callable[..., Callable[[], None]]:
    count = STATES[rule]

    def stage(
        grads: Tensors,
        params: Tensors,
        states: Tensors,
        steps: Maybe,
        positions: Sequence[int],
        lr: Maybe,
        hyper: Sequence[float],
    ) -> Callable[[], None]:
        if not grads:
            return lambda: None
        columns = _columns(count, states)
        layout = layout_of(grads, params, *columns)
        grads = contiguous(grads)
        steps, lr = _scalars(layout, steps, positions, lr)
        written = [*params, *states]
        _require_writable(written, grads)

        def take_step() -> None:
            _increment_versions(written)
            launch(
                rule,
                layout,
                apply=True,
                inputs=(grads, params, *columns),
                outputs=[*map(pointers, (params, *columns))],
                steps=steps,
                positions=positions,
                lr=lr,
                hyper=hyper,
            )

        return take_step

    return stage


def _step_inplace(rule: str) -> Callable[..., None]:
    stage = _stage(rule)

    def step_(*arguments: Any) -> None:
        stage(*arguments)()

    return step_


def _require_writable(written: Tensors, read: Tensors) -> None:
    if not all([tensor.is_contiguous() for tensor in written]):
        raise Mismatch('only contiguous tensors can be written in place')
    if overlap([*written, *read]):
        raise Mismatch('tensors that share memory cannot be written in place')


def _increment_versions(written: Tensors) -> None:
    for tensor in written:
        # Lists are taken since torch 2.5 only.
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)


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


def _inplace_fake(*given: Any) -> None:
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


def _register(
    library: torch.library.Library,
    kind: str,
    make: Callable[[str], Callable[..., Any]],
    fake: Callable[..., Any],
) -> dict[str, Callable[..., Any]]:
    """Register an operator for each rule; return what to call, by rule."""
    return {rule: _operator(library, f'{rule}_{kind}', kind, make(rule), fake) for rule in RULES}


def _operator(
    library: torch.library.Library,
    name: str,
    kind: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    library.define(name + _SCHEMAS[kind])
    library.impl(name, implementation, 'CPU')
    if HAS_CUDA:
        library.impl(name, implementation, 'CUDA')
    torch.library.register_fake(f'torchopt::{name}', fake, lib=library)
    operator = getattr(torch.ops.torchopt, name).default

    def call(*arguments: Any) -> Any:
        # The dispatcher takes lists apart and puts them together again, some 0.5 µs a tensor.
        return operator(*arguments) if dispatching() else implementation(*arguments)

    return call


def _staged(rule: str) -> Callable[..., Callable[[], None]]:
    stage = _stage(rule)

    def staged(*arguments: Any) -> Callable[[], None]:
        if dispatching():
            return functools.partial(STEP_INPLACE[rule], *arguments)
        return stage(*arguments)

    return staged


# The library lives as long as this module: with it the operators would go.
_LIBRARY = torch.library.Library('torchopt', 'DEF')

FORWARD = _register(_LIBRARY, 'forward', _forward, _forward_fake)
FORWARD_INPLACE = _register(_LIBRARY, 'forward_', _forward_inplace, _inplace_fake)
# Of a step, all that can raise; returns what is left to do.
STAGE = {rule: _staged(rule) for rule in RULES}
STEP_INPLACE = _register(_LIBRARY, 'step_', _step_inplace, _inplace_fake)
BACKWARD = _register(_LIBRARY, 'backward', _backward, _backward_fake)
