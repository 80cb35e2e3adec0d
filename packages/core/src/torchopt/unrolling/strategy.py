"""What all ways of paying for the backward pass have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from torchopt.unrolling.internals import active_transform
from torchopt.unrolling.loop import Loop, without_history
from torchopt.unrolling.vmapped import run_mapped


class Strategy(ABC):
    """One way of paying for the backward pass of :func:`torchopt.unroll`."""

    traceable: ClassVar[bool] = False
    """Whether it is made of operations that ``torch.func`` and ``torch.compile`` see through."""

    @abstractmethod
    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""


def run_with(strategy: Strategy, loop: Loop) -> tuple[Any, Any]:
    """Run ``loop`` with ``strategy``, where it is: alone, under ``torch.vmap``, or traced.

    Raises:
        RuntimeError: the strategy would do something else there than it says.
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
        # Without grad mode nothing is to be kept for a backward pass.
        return strategy.run(loop if torch.is_grad_enabled() else without_history(loop))
    if transform == 'vmap':
        return run_mapped(lambda mapped: run_with(strategy, mapped), loop)
    raise RuntimeError(
        f'unroll(..., backward={name}(...)) cannot run inside torch.func.grad, vjp or jvp, which '
        'ask for a derivative that can be differentiated again: differentiate it with '
        'torch.autograd.grad, or use backward=Stored()'
    )
