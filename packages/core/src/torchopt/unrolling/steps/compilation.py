"""Compiled functions that are kept with the code of a step."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from operator import mul
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch

from torchopt.authoring.torch_internals import compiler_named, recompile_limit_errors
from torchopt.unrolling.context.closures import function_of
from torchopt.unrolling.steps.automatic import INDUCTOR, automatic
from torchopt.unrolling.steps.recording import RecordingBackend

AUTOMATIC = 'automatic'
"""The backend behind True; see :func:`.automatic`."""

Backend: TypeAlias = str | Callable[..., Any]
"""The backend of ``torch.compile``."""

Compilation: TypeAlias = bool | str | Callable[..., Any]
"""Whether to compile a step, or the backend of ``torch.compile`` to do it with.

True stands for ``'inductor'``, and for ``'aot_eager'`` where convolutions of some size run on the
CPU.
"""

_Compiled: TypeAlias = dict[tuple[types.FunctionType, Backend], 'RenewableCompilation']
_by_code: WeakKeyDictionary[types.CodeType, _Compiled] = WeakKeyDictionary()


def backend_of(compile: Compilation) -> Backend | None:
    """Return the backend that was chosen; None without compilation."""
    if compile is False:
        return None
    return AUTOMATIC if compile is True else compile


def compiled_for(
    step: Callable[..., Any], fn: Any, backend: Backend, part: str = ''
) -> RenewableCompilation:
    """Return ``fn``, a function that calls ``step``, compiled.

    The compiled function serves all steps with the same code, such as the closures that one
    function returns, and is freed with the code.

    Args:
        step: The step.
        fn: The function.
        backend: What compiles it.
        part: What ``fn`` computes of the step, in messages.
    """
    compiled = _by_code.setdefault(function_of(step).__code__, {})
    if (fn, backend) not in compiled:
        what = f'{part}the step {function_of(step).__qualname__} of unroll'
        compiled[fn, backend] = RenewableCompilation(fn, backend, what)
    return compiled[fn, backend]


class RenewableCompilation:
    """A compiled function that starts afresh when Dynamo refuses to add another graph."""

    def __init__(self, fn: types.FunctionType, backend: Backend, what: str) -> None:
        """Compile when called.

        Args:
            fn: The function.
            backend: What compiles it.
            what: Its name in messages.
        """
        self._fn = fn
        self._backend = backend
        self._recording = _recording(backend, what)
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
        backend: Any = self._recording or self._backend
        options: Any = None
        if backend in (AUTOMATIC, 'inductor'):
            backend, options = 'inductor', INDUCTOR
        return torch.compile(
            _copy(self._fn), fullgraph=True, dynamic=False, backend=backend, options=options
        )


def _recording(backend: Backend, what: str) -> RecordingBackend | None:
    """Return ``backend`` with a record of what it runs; None where torch does not name it."""
    found: Any = backend
    if backend == AUTOMATIC:
        found = automatic()
    elif isinstance(backend, str):
        found = compiler_named(backend)
    if found is not None and backend == 'inductor':
        found = functools.partial(found, config_patches=INDUCTOR)
    return None if found is None else RecordingBackend(found, what)


def _copy(fn: types.FunctionType) -> Callable[..., Any]:
    """Return ``fn`` with its own code object, to which Dynamo ties graphs and their limit."""
    return types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__)


def standard_layout(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor``, as another object, in the layout that every tensor of its shape gets."""
    # contiguous() leaves any stride to a dimension of size 1, and Dynamo's guards compare it.
    return tensor.contiguous().as_strided(tensor.shape, _strides(tensor.shape))


def has_standard_layout(tensor: torch.Tensor) -> bool:
    """Tell whether ``tensor`` is in the layout of :func:`standard_layout`."""
    return tensor.stride() == _strides(tensor.shape)


def _strides(shape: torch.Size) -> tuple[int, ...]:
    strides = [*itertools.accumulate(shape[:0:-1], mul, initial=1)][::-1]
    return tuple(strides[: len(shape)])
