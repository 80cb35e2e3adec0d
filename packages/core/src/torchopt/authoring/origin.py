"""Where a transformation comes from: its factory and arguments, for ``repr`` and pickle."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

P = ParamSpec('P')
Made = TypeVar('Made')


class Origin(NamedTuple):
    """A factory and the arguments that it was called with."""

    factory: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        return inspect.signature(self.factory).bind(*self.args, **self.kwargs).arguments

    def __str__(self) -> str:
        defaults = inspect.signature(self.factory).parameters
        arguments = ', '.join(
            f'{name}={shown(value)}'
            for name, value in self.arguments.items()
            if isinstance(value, torch.Tensor) or repr(value) != repr(defaults[name].default)
        )
        return f'{self.factory.__name__}({arguments})'


def recorded(factory: Callable[P, Made]) -> Callable[P, Made]:
    """Let the transformations of a factory be printed and pickled as a call of the factory."""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Made:
        made: Any = factory(*args, **kwargs)
        if not torch.compiler.is_compiling() and inspect.isfunction(made.init):
            made.init.__dict__['origin'] = Origin(make, args, kwargs)
        return made  # type: ignore[no-any-return]

    return make


def origin_of(init: Callable[..., Any]) -> Origin | None:
    """Return the origin of the transformation with this ``init``, if a factory recorded it."""
    return getattr(init, 'origin', None)


def shown(value: Any) -> str:
    """Return a short form of an argument, for one line of a ``repr``."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.device.type == 'cpu':
        grad = ', requires_grad=True' if value.requires_grad else ''
        return f'tensor({value.item():.4g}{grad})'
    if callable(value):
        return getattr(value, '__name__', type(value).__name__)
    text = repr(value)
    return text if len(text) <= 60 else f'{text:.57}...'
