"""How an optimizer's class takes the arguments of its factory, and a group overrides them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from torchopt.base import GradientTransformation

P = ParamSpec('P')
Self = TypeVar('Self')
Target = TypeVar('Target')


class Recipe:
    """A factory of transformations with its arguments, from which variants can be made."""

    def __init__(
        self, factory: Callable[..., GradientTransformation], arguments: Mapping[str, Any]
    ) -> None:
        self._factory = factory
        self._arguments = dict(arguments)

    def make(self, overrides: Mapping[str, Any] | None = None) -> GradientTransformation:
        """Return the transformation, with some of its arguments replaced.

        Raises:
            TypeError: the factory has no argument of that name.
        """
        known = inspect.signature(self._factory).parameters
        for name in overrides or {}:
            if name not in known:
                raise TypeError(
                    f'{self._factory.__name__} has no hyperparameter {name!r}; '
                    f'it has {", ".join(known)}'
                )
        return self._factory(**{**self._arguments, **(overrides or {})})


def with_arguments_of(
    factory: Callable[P, GradientTransformation],
) -> Callable[
    [Callable[[Self, Target, Recipe], None]],
    Callable[Concatenate[Self, Target, P], None],
]:
    """Let ``__init__(self, target, recipe)`` be called as ``__init__(self, target, **arguments)``.

    The arguments, their defaults and their types are those of ``factory``, so that the class and
    the function can't drift apart.
    """
    parameters = inspect.signature(factory).parameters.values()

    def decorate(
        initialize: Callable[[Self, Target, Recipe], None],
    ) -> Callable[Concatenate[Self, Target, P], None]:
        own, target, _ = inspect.signature(initialize).parameters.values()
        signature = inspect.Signature([own, target, *parameters])

        def __init__(*args: Any, **kwargs: Any) -> None:
            arguments = signature.bind(*args, **kwargs).arguments
            initialize(
                arguments.pop(own.name), arguments.pop(target.name), Recipe(factory, arguments)
            )

        functools.update_wrapper(__init__, initialize)
        __init__.__signature__ = signature  # type: ignore[attr-defined]
        return __init__

    return decorate
