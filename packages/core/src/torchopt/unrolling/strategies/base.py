"""What all strategies have in common, and where each of them may run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

import torch

from torchopt.authoring.torch_internals import (
    active_transform,
    forward_grad_switch,
    in_dual_level,
)
from torchopt.unrolling.context.captures import is_dual
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.vmapped import run_mapped


class Strategy(ABC):
    """One way of paying for the backward pass of :func:`torchopt.unroll`."""

    traceable: ClassVar[bool] = False
    """Whether it consists of operations that ``torch.func`` and ``torch.compile`` can trace."""

    @abstractmethod
    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""


def options_of(strategy: Any) -> str:
    """Return a strategy with its options, but its storage, as a text that every process has."""
    options = {
        field.name: getattr(strategy, field.name)
        for field in fields(strategy)
        if field.name != 'storage'
    }
    shown = (f'{name}={getattr(value, "__name__", value)}' for name, value in options.items())
    return f'{type(strategy).__name__}({", ".join(shown)})'


def run_strategy(strategy: Strategy, loop: Loop) -> tuple[Any, Any]:
    """Run ``loop`` with ``strategy``: as it is, below ``torch.vmap``, or traced.

    Raises:
        RuntimeError: the strategy cannot do there what it promises.
    """
    if strategy.traceable:
        return strategy.run(loop)
    name = type(strategy).__name__
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f'unroll(..., backward={name}(...)) cannot be traced by torch.compile: compile the '
            'step instead (compile=True), or use backward=Stored()'
        )
    transform = active_transform()
    if transform in ('none', 'unknown'):
        _require_no_duals(name, loop)
        # Without grad mode no backward pass follows, and nothing is kept for one.
        return strategy.run(loop if torch.is_grad_enabled() else loop.as_constant())
    if transform == 'vmap':
        return run_mapped(lambda mapped: run_strategy(strategy, mapped), loop)
    raise RuntimeError(
        f'unroll(..., backward={name}(...)) cannot run inside torch.func.grad, vjp or jvp, which '
        'ask for a derivative that can be differentiated again: differentiate it with '
        'torch.autograd.grad, or use backward=Stored()'
    )


def _require_no_duals(name: str, loop: Loop) -> None:
    """Raise if forward-mode differentiation around ``loop`` would lose a tangent unseen."""
    if in_dual_level() and (forward_grad_switch() is None or any(map(is_dual, loop.tensors()))):
        raise RuntimeError(
            f'unroll(..., backward={name}(...)) would lose the tangents of dual tensors '
            '(torch.autograd.forward_ad): use backward=Stored()'
        )
