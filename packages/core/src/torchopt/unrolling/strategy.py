"""What all ways of paying for the backward pass have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from torchopt.unrolling.loop import Loop


class Strategy(ABC):
    """One way of paying for the backward pass of :func:`torchopt.unroll`."""

    @abstractmethod
    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""


def require_no_transform(strategy: Strategy) -> None:
    """Raise under the transforms of ``torch.func`` and under ``torch.compile``.

    Raises:
        RuntimeError: one is active.
    """
    name = type(strategy).__name__
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f'unroll(..., backward={name}(...)) cannot be traced by torch.compile: compile the '
            'step instead (compile=True), or use backward=Stored()'
        )
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            f'unroll(..., backward={name}(...)) cannot run inside torch.func.grad, vjp, jvp or '
            'torch.vmap: differentiate it with torch.autograd.grad and put vmap inside the step, '
            'or use backward=Stored()'
        )
