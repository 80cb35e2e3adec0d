"""The operators ``torchopt::<rule>_forward``, ``_forward_``, ``_step_`` and ``_backward``.

``_forward_`` writes updates and new states into the gradients and states that it was given;
``_step_`` writes parameters and states. The operators know nothing of autograd, which is in
``autograd.py``. Fake tensors and compilers see them; where no dispatch mode is active, a step calls
their implementations directly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from torchopt.authoring.describe import alike, describe
from torchopt_accel import kernels
from torchopt_accel.internals import dispatching, increment_versions
from torchopt_accel.kernels import (
    DTYPES,
    RULES,
    Layout,
    Maybe,
    Role,
    StepArgs,
    compute,
    overlap,
)
from torchopt_accel.platform import HAS_CUDA, C
from torchopt_accel.roles import Call, Mismatch, Tensors, join, split

Commit = Callable[[], None]

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


def forward(call: Call, lr: Maybe, steps: Maybe, tensors: Tensors) -> list[torch.Tensor]:
    """Return updates and new states, as one flat list."""
    rule, args = call.spec.rule, call.args(lr, steps, tensors)
    if dispatching():
        results: list[torch.Tensor] = _OPERATORS[f'{rule}_forward'](*_joined(args))
        return results
    return _forward(rule, args)


def backward(
    call: Call,
    wanted: Sequence[bool],
    lr: Maybe,
    steps: Maybe,
    cotangents: Sequence[Maybe],
    tensors: Tensors,
) -> list[torch.Tensor]:
    """Return the cotangents of the roles that ``wanted`` names, as one flat list.

    Args:
        call: The step.
        wanted: One entry each for gradients, parameters, every state, and ``lr``.
        lr: The learning rate if it is a tensor.
        steps: Step counts after this step.
        cotangents: Cotangents of the step's results; None counts as zeros.
        tensors: The step's tensors.
    """
    rule, args = call.spec.rule, call.args(lr, steps, tensors)
    if dispatching():
        results: list[torch.Tensor] = _OPERATORS[f'{rule}_backward'](
            cotangents, *_joined(args), wanted
        )
        return results
    return _backward(rule, args, cotangents, wanted)


def prepare(call: Call, lr: Maybe, steps: Maybe, tensors: Tensors, *, apply: bool) -> Commit:
    """Validate a step in place; return the closure that launches it.

    Args:
        call: The step.
        lr: The learning rate if it is a tensor.
        steps: Step counts after this step.
        tensors: The step's tensors; parameters among them with ``apply``.
        apply: Write new parameters into the parameters, not updates into the gradients.

    Raises:
        Mismatch: the tensors do not fit together, or can't be written where they lie.
    """
    rule, args = call.spec.rule, call.args(lr, steps, tensors)
    commit = _prepare(rule, args, apply=apply)
    if dispatching():
        operator = _OPERATORS[f'{rule}_step_' if apply else f'{rule}_forward_']
        return functools.partial(operator, *_joined(args))
    return commit


def _forward(rule: str, args: StepArgs) -> list[torch.Tensor]:
    if not args.grads:
        return []
    read = _read(args)
    return compute(rule, read.layout, read.args, read.addresses, [True] * (1 + len(args.states)))


def _backward(
    rule: str, args: StepArgs, cotangents: Sequence[Maybe], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    if not args.grads:
        return []
    received = split(cotangents, 1 + len(args.states))
    _require_as_many(args.grads, received)
    # A role without cotangents counts as zeros; the kernel need not look at its leaves.
    received = [role if any([x is not None for x in role]) else [] for role in received]
    read = _read(args, *received)
    *roles, want_lr = wanted
    lr_grad = None
    if want_lr:
        if read.args.lr is None:
            raise ValueError('the cotangent of lr is wanted, but lr is not given')
        lr_grad = torch.zeros_like(read.args.lr)
    taken = len(read.addresses) - len(received)
    inputs = [*read.addresses[taken:], *read.addresses[:taken]]
    results = compute(rule, read.layout, read.args, inputs, roles, backward=True, lr_grad=lr_grad)
    if lr_grad is not None and args.lr is not None:
        results.append(lr_grad.to(args.lr.device, args.lr.dtype))
    return results


def _prepare(rule: str, args: StepArgs, *, apply: bool) -> Commit:
    if not args.grads:
        return lambda: None
    if apply and not args.params:
        raise Mismatch('only a step with params can be applied')
    read = _read(args)
    target, other = (1, 0) if apply else (0, 1)
    given = (args.grads, args.params, *args.states)
    if any([read.roles[role] is not given[role] for role in range(len(given)) if role != other]):
        raise Mismatch('only contiguous tensors, not negative views, can be written in place')
    written = join(role for number, role in enumerate(given) if number != other)
    outputs = [read.addresses[target], *read.addresses[2:]]
    if overlap(read.layout, [*outputs, *([read.addresses[other]] if given[other] else [])]):
        raise Mismatch('tensors that share memory cannot be written in place')

    def commit() -> None:
        increment_versions(written)
        kernels.launch(rule, read.layout, read.args, read.addresses, outputs, apply=apply)

    return commit


class _Read(NamedTuple):
    """What a kernel needs to know of a step's tensors.

    Attributes:
        layout: What they have in common.
        args: The step's scalars, on the device.
        roles: Gradients, parameters, states, then cotangents; copies of tensors that are not plain.
        addresses: Where they lie.
    """

    layout: Layout
    args: StepArgs
    roles: Sequence[Role]
    addresses: list[list[int]]


def _read(args: StepArgs, *cotangents: Role) -> _Read:
    """Compare all that a step takes, and find out where it lies.

    Raises:
        Mismatch: roles differ in length or shape, tensors in dtype or device, or no kernel takes
            their dtype.
        ValueError: ``steps``, ``positions`` or ``lr`` do not fit the tensors.
    """
    grads, params, states, steps, positions, lr, hyper = args
    layout = Layout([tensor.shape for tensor in grads], grads[0].dtype, grads[0].device)
    if layout.dtype not in DTYPES:
        raise Mismatch(f'the kernels take {", ".join(map(str, DTYPES))}, not {layout.dtype}')
    roles: Sequence[Role] = (grads, params, *states, *cotangents)
    addresses = _read_at_once(roles)
    if addresses is None:
        _require_alike(layout, roles)
        roles, addresses = kernels.read(roles)
    count = len(grads)
    if steps is not None:
        fits = len(positions) == count and 0 <= min(positions) <= max(positions)
        if not fits or max(positions) >= steps.numel() or steps.dtype != torch.int64:
            raise ValueError(
                f'each of the {count} tensors needs its position in the int64 vector steps'
            )
        steps = _moved(steps, layout.device, torch.int64)
    if lr is not None:
        if lr.shape not in ((), (count,)) or not lr.is_floating_point():
            raise ValueError(
                f'lr must be a floating-point scalar or vector of {count}, '
                f'got {lr.dtype} of shape {tuple(lr.shape)}'
            )
        lr = _moved(lr, layout.device, torch.float64)
    args = StepArgs(grads, params, states, steps, positions, lr, hyper)
    return _Read(layout, args, roles, addresses)


def _read_at_once(roles: Sequence[Role]) -> list[list[int]] | None:
    """Return addresses by role, 0 for None, if all tensors are alike and plain.

    The answer is None also where torch does not tell, before 2.10: :func:`kernels.read` asks every
    tensor in Python, which takes longer than a small kernel.
    """
    addresses = C.addresses(torch.Tensor, [*roles])
    if addresses is None or any([x is not None and x.is_neg() for role in roles for x in role]):
        return None
    return addresses


def _require_alike(layout: Layout, roles: Sequence[Role]) -> None:
    grads, *others = roles
    _require_as_many(grads, others)
    for role in others:
        if any(x is not None and x.shape != y for x, y in zip(role, layout.shapes)):
            raise _misfit(grads, role)
    tensors = [x for role in roles for x in role if x is not None]
    if {x.layout for x in tensors} != {torch.strided}:
        raise Mismatch('the kernels take dense tensors, not sparse ones')
    if {(x.dtype, x.device) for x in tensors} != {(layout.dtype, layout.device)}:
        raise _misfit(grads, *others)


def _require_as_many(grads: Role, roles: Sequence[Role]) -> None:
    for role in roles:
        if role and len(role) != len(grads):
            raise Mismatch(f'{len(role)} tensors do not go with {len(grads)} gradients')


def _misfit(grads: Role, *roles: Role) -> Mismatch:
    """Return the error that names the first tensor that does not fit its gradient."""
    for role in roles:
        for position, (x, grad) in enumerate(zip(role, grads)):
            if x is not None and not alike(grad, x, device=True):
                return Mismatch(
                    f'tensors of one step differ in shape, dtype or device, first at leaf '
                    f'{position}: {describe(x)}, against the gradient, {describe(grad)}'
                )
    other = next(g for g in grads if (g.dtype, g.device) != (grads[0].dtype, grads[0].device))
    return Mismatch(
        f'gradients of one step differ in dtype or device: {describe(other)}, against the first, '
        f'{describe(grads[0])}'
    )


def _moved(scalars: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # A copy towards the CPU that does not block would be read before it has arrived.
    blocking = device.type == 'cpu'
    moved = scalars.to(device, dtype, non_blocking=not blocking)
    return moved.resolve_neg().contiguous()


def _joined(args: StepArgs) -> tuple[Any, ...]:
    return args._replace(states=join(args.states))


def _implementations(rule: str) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Return each operator's implementation and its counterpart for fake tensors, by suffix."""

    def args_of(grads: Any, params: Any, states: Any, *rest: Any) -> StepArgs:
        return StepArgs(grads, params, split(states, RULES[rule].states), *rest)

    def backward_operator(cotangents: Any, *given: Any) -> list[torch.Tensor]:
        *args, wanted = given
        return _backward(rule, args_of(*args), cotangents, wanted)

    return {
        'forward': (lambda *given: _forward(rule, args_of(*given)), _fake_forward),
        'forward_': (lambda *given: _prepare(rule, args_of(*given), apply=False)(), _fake_inplace),
        'step_': (lambda *given: _prepare(rule, args_of(*given), apply=True)(), _fake_inplace),
        'backward': (backward_operator, _fake_backward),
    }


def _fake_forward(grads: Any, params: Any, states: Any, *rest: Any) -> list[torch.Tensor]:
    return [_like(tensor) for tensor in (*grads, *states)]


def _fake_inplace(*given: Any) -> None:
    return None


def _fake_backward(cotangents: Any, *given: Any) -> list[torch.Tensor]:
    grads, _, _, _, _, lr, _, wanted = given
    *roles, want_lr = wanted
    flat = [_like(tensor) for want in roles if want for tensor in grads]
    if want_lr and lr is not None and grads:
        flat.append(_like(lr))
    return flat


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _register(library: torch.library.Library) -> dict[str, Callable[..., Any]]:
    """Register all operators; return them by name."""
    operators = {}
    for rule in RULES:
        for suffix, (implementation, fake) in _implementations(rule).items():
            name = f'{rule}_{suffix}'
            library.define(name + _SCHEMAS[suffix])
            for device in ('CPU', 'CUDA') if HAS_CUDA else ('CPU',):
                library.impl(name, implementation, device)
            torch.library.register_fake(f'torchopt::{name}', fake, lib=library)
            operators[name] = getattr(torch.ops.torchopt, name).default
    return operators


# The operators live as long as their library.
_LIBRARY = torch.library.Library('torchopt', 'DEF')
_OPERATORS = _register(_LIBRARY)
