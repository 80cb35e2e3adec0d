"""The operators ``torchopt::<rule>_forward``, ``_forward_``, ``_step_`` and ``_backward``.

``_forward_`` writes updates and new states into the gradients and states that it was given;
``_step_`` writes parameters and states. The operators know nothing of autograd, which is in
``autograd.py``. Fake tensors and compilers see them; where no dispatch mode is active, a step calls
their implementations directly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchopt_accel import kernels, running
from torchopt_accel.internals import dispatching
from torchopt_accel.kernels import RULES, StepArgs
from torchopt_accel.platform import HAS_CUDA
from torchopt_accel.roles import Call, Tensors, join, split
from torchopt_accel.running import Commit
from torchopt_accel.scalars import Maybe, Scalars
from torchopt_accel.strides import like

_COMMON = 'Tensor? steps, Tensor? numbers, int[] positions, Tensor? lr, float[] hyper'
_SCHEMAS = {
    'forward': f'(Tensor[] grads, Tensor[] params, Tensor[] states, {_COMMON}) -> Tensor[]',
    'forward_': f'(Tensor(a!)[] grads, Tensor[] params, Tensor(b!)[] states, {_COMMON}) -> ()',
    'step_': f'(Tensor[] grads, Tensor(a!)[] params, Tensor(b!)[] states, {_COMMON}) -> ()',
    'backward': (
        '(Tensor?[] cotangents, Tensor[] grads, Tensor[] params, Tensor[] states, '
        f'{_COMMON}, bool[] wanted) -> Tensor[]'
    ),
}


def forward(call: Call, scalars: Scalars, tensors: Tensors) -> Tensors:
    """Return updates and new states, as one flat list."""
    seen = dispatching()
    if not seen:
        found = kernels.forward_at_once(call.of_rule, scalars, tensors)
        if found is not None:
            return found
    rule, args = call.spec.rule, call.args(scalars, tensors)
    if seen:
        results: Tensors = _OPERATORS[f'{rule}_forward'](*_joined(args))
        return results
    return running.forward(rule, args)


def backward(
    call: Call,
    wanted: Sequence[bool],
    scalars: Scalars,
    cotangents: Sequence[Maybe],
    tensors: Tensors,
) -> list[torch.Tensor]:
    """Return the cotangents of the roles that ``wanted`` names, as one flat list.

    Args:
        call: The step.
        wanted: One entry each for gradients, parameters, every state, and ``lr``.
        scalars: The step's scalars.
        cotangents: Cotangents of the step's results; None counts as zeros.
        tensors: The step's tensors.
    """
    rule, args = call.spec.rule, call.args(scalars, tensors)
    if dispatching():
        results: list[torch.Tensor] = _OPERATORS[f'{rule}_backward'](
            cotangents, *_joined(args), wanted
        )
        return results
    return running.backward(rule, args, cotangents, wanted)


def prepare(call: Call, scalars: Scalars, tensors: Tensors, *, apply: bool) -> Commit:
    """Validate a step in place; return the closure that launches it.

    Args:
        call: The step.
        scalars: The step's scalars.
        tensors: The step's tensors; parameters among them with ``apply``.
        apply: Write new parameters into the parameters, not updates into the gradients.

    Raises:
        Mismatch: the tensors do not fit together, or can't be written where they lie.
    """
    rule, args = call.spec.rule, call.args(scalars, tensors)
    commit = running.prepare(rule, args, apply=apply)
    if dispatching():
        operator = _OPERATORS[f'{rule}_step_' if apply else f'{rule}_forward_']
        return functools.partial(operator, *_joined(args))
    return commit


def _joined(args: StepArgs) -> tuple[Any, ...]:
    return args._replace(states=join(args.states), positions=[*args.positions])


def _implementations(rule: str) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    """Return each operator's implementation and its counterpart for fake tensors, by suffix."""

    def args_of(grads: Any, params: Any, states: Any, *rest: Any) -> StepArgs:
        return StepArgs(grads, params, split(states, RULES[rule].states), *rest)

    def in_place(*given: Any, apply: bool) -> None:
        running.prepare(rule, args_of(*given), apply=apply)()

    def backward_operator(cotangents: Any, *given: Any) -> list[torch.Tensor]:
        *args, wanted = given
        return running.backward(rule, args_of(*args), cotangents, wanted)

    return {
        'forward': (lambda *given: running.forward(rule, args_of(*given)), _fake_forward),
        'forward_': (functools.partial(in_place, apply=False), _fake_inplace),
        'step_': (functools.partial(in_place, apply=True), _fake_inplace),
        'backward': (backward_operator, _fake_backward),
    }


def _fake_forward(grads: Any, params: Any, states: Any, *rest: Any) -> list[torch.Tensor]:
    roles = 1 + len(states) // len(grads) if grads else 0
    return [like(tensor) for _ in range(roles) for tensor in _first(grads, states)]


def _fake_inplace(*given: Any) -> None:
    return None


def _fake_backward(cotangents: Any, *given: Any) -> list[torch.Tensor]:
    grads, _, states, _, _, _, lr, _, wanted = given
    *roles, want_lr = wanted
    flat = [like(tensor) for want in roles if want for tensor in _first(grads, states)]
    if want_lr and lr is not None and grads:
        flat.append(torch.empty_like(lr, memory_format=torch.contiguous_format))
    return flat


def _first(grads: Any, states: Any) -> Any:
    """Return the tensors whose strides the results get."""
    return states[: len(grads)] or grads


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
