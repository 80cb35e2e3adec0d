"""The one place where core looks for the fused kernels of ``torchopt-accel``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import ParamSpec

import torch

from torchopt.authoring.origin import recorded
from torchopt.base import GradientTransformation

P = ParamSpec('P')

_MODULE = 'torchopt_accel'


def accelerated_op_available(
    devices: str | torch.device | Iterable[str | torch.device] | None = None,
) -> bool:
    """Tell whether ``use_accelerated_op=True`` runs fused kernels on every one of ``devices``.

    Args:
        devices: One device or several; by default the CPU and, if there is one, the GPU.
    """
    if importlib.util.find_spec(_MODULE) is None:
        return False
    available: bool = _accel().available(devices)
    return available


def accelerable(
    factory: Callable[P, GradientTransformation],
) -> Callable[P, GradientTransformation]:
    """Give an optimizer's factory its fused implementation for ``use_accelerated_op=True``.

    It also does what :func:`torchopt.authoring.origin.recorded` does.

    The decorated factory builds the composite transformation. ``torchopt_accel.fuse`` receives the
    factory's name, the composite transformation as its fallback, and all arguments by name.
    """
    signature = inspect.signature(factory)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}

    @recorded
    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        composite = factory(*args, **kwargs)
        # Under torch.compile the composite rule is as good: the compiler fuses it.
        if not kwargs.get('use_accelerated_op', False) or torch.compiler.is_compiling():
            return composite
        given = signature.bind(*args, **kwargs).arguments if args else kwargs
        arguments = {**defaults, **given}
        del arguments['use_accelerated_op']
        fused: GradientTransformation = _accel().fuse(factory.__name__, composite, arguments)
        return fused

    return make


def _accel() -> ModuleType:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        raise ModuleNotFoundError(
            'use_accelerated_op=True needs the package torchopt-accel: '
            'pip install torchopt-accel, or leave the option out',
            name=_MODULE,
        ) from None
