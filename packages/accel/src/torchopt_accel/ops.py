"""The operators ``torchopt::<rule>_forward``, ``_forward_``, ``_step_`` and ``_backward``.

``_forward_`` writes updates and new states into the tensors that it was given, ``_step_`` new
parameters and states. All take lists with one tensor for every leaf: gradients, parameters (but
for ``_step_`` an empty list for a rule without weight decay) and states, role after role. They
know nothing of autograd, which is in ``step.py``; they are what fake tensors and the compiler
see. Where nothing looks on, a step calls what is behind them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from torchopt_accel import implementations
from torchopt_accel.internals import dispatching
from torchopt_accel.launch import HAS_CUDA, RULES

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
    stage = implementations.make_stage(rule)

    def staged(*arguments: Any) -> Callable[[], None]:
        if dispatching():
            return functools.partial(STEP_INPLACE[rule], *arguments)
        return stage(*arguments)

    return staged


# The library lives as long as this module: with it the operators would go.
_LIBRARY = torch.library.Library('torchopt', 'DEF')

FORWARD = _register(_LIBRARY, 'forward', implementations.make_forward, implementations.forward_fake)
FORWARD_INPLACE = _register(
    _LIBRARY, 'forward_', implementations.make_forward_inplace, implementations.inplace_fake
)
# Of a step, all that can raise; returns what is left to do.
STAGE = {rule: _staged(rule) for rule in RULES}
STEP_INPLACE = _register(
    _LIBRARY, 'step_', implementations.make_step_inplace, implementations.inplace_fake
)
BACKWARD = _register(
    _LIBRARY, 'backward', implementations.make_backward, implementations.backward_fake
)
