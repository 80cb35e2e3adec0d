"""What is behind the operators: tensors compared and laid out, kernels launched.

Each function makes the implementation for one rule; ``ops.py`` says what they take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel.launch import (
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


def make_forward(rule: str) -> Callable[..., list[torch.Tensor]]:
    """Updates and new states."""
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


def make_forward_inplace(rule: str) -> Callable[..., None]:
    """The same, written into gradients and states."""
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


def make_stage(rule: str) -> Callable[..., Callable[[], None]]:
    """All of a step in place that can raise; what is returned takes it."""
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


def make_step_inplace(rule: str) -> Callable[..., None]:
    """New parameters and states, written into the old ones."""
    stage = make_stage(rule)

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


def make_backward(rule: str) -> Callable[..., list[torch.Tensor]]:
    """Cotangents of what ``wanted`` names: gradients, parameters, each state, lr."""
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


def forward_fake(
    grads: Tensors, params: Tensors, states: Tensors, *rest: Any
) -> list[torch.Tensor]:
    """What ``make_forward`` gives, without values."""
    return [_like(tensor) for tensor in (*grads, *states)]


def inplace_fake(*given: Any) -> None:
    """What writes in place gives nothing."""
    return None


def backward_fake(
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
    """What ``make_backward`` gives, without values."""
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
