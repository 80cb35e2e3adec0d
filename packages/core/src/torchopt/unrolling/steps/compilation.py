"""Compiled functions that are kept with the code of a step."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from operator import mul
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch

from torchopt.authoring.torch_internals import recompile_limit_errors
from torchopt.unrolling.context.closures import function_of

Backend: TypeAlias = str | Callable[..., Any]
"""The backend of ``torch.compile``."""

Compilation: TypeAlias = bool | str | Callable[..., Any]
"""Whether to compile a step, or the backend of ``torch.compile`` to do it with."""

_Compiled: TypeAlias = dict[tuple[types.FunctionType, Backend], 'RenewableCompilation']
_by_code: WeakKeyDictionary[types.CodeType, _Compiled] = WeakKeyDictionary()


def backend_of(compile: Compilation) -> Backend | None:
    """Return the backend that was chosen; None without compilation."""
    if compile is False:
        return None
    return 'inductor' if compile is True else compile


def compiled_for(step: Callable[..., Any], fn: Any, backend: Backend) -> RenewableCompilation:
    """Return ``fn``, a function that calls ``step``, compiled.

    The compiled function serves all steps with the same code, such as the closures that one
    function returns, and is freed with the code.
    """
    compiled = _by_code.setdefault(function_of(step).__code__, {})
    if (fn, backend) not in compiled:
        compiled[fn, backend] = RenewableCompilation(fn, backend)
    return compiled[fn, backend]


class RenewableCompilation:
    """A compiled function that starts afresh when Dynamo refuses to add another graph."""

    def __init__(self, fn: types.FunctionType, backend: Backend) -> None:
        self._fn = fn
        self._backend = backend
        self._compiled = self._compile()

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function; compile it anew where Dynamo refuses."""
        try:
            return self._compiled(*args)
        except recompile_limit_errors():
            # One code may serve many steps (all that a factory or ModuleStep makes), and torch
            # limits the graphs of a code. The graphs of earlier steps are given up.
            self._compiled = self._compile()
            return self._compiled(*args)

    def _compile(self) -> Callable[..., Any]:
        # Numbers come from torch's own generators, so that the step and its vjp draw the same.
        options: Any = {'fallback_random': True} if self._backend == 'inductor' else None
        return torch.compile(
            _copy(self._fn), fullgraph=True, dynamic=False, backend=self._backend, options=options
        )


def _copy(fn: types.FunctionType) -> Callable[..., Any]:
    """Return ``fn`` with its own code object, to which Dynamo ties graphs and their limit."""
    return types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__)


def standard_layout(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in the layout that every tensor of its shape gets."""
    # contiguous() leaves any stride to a dimension of size 1, and Dynamo's guards compare it.
    strides = [*itertools.accumulate(tensor.shape[:0:-1], mul, initial=1)][::-1]
    return tensor.contiguous().as_strided(tensor.shape, strides[: tensor.dim()])
