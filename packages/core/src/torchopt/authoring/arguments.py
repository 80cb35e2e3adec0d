"""How an optimizer's class takes the arguments of its factory, and a group overrides them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
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

    def values(self) -> dict[str, Any]:
        """Return every hyperparameter with its value here, by name."""
        defaults = {name: p.default for name, p in _parameters_of(self._factory).items()}
        return {**defaults, **self._arguments}

    @property
    def names(self) -> Collection[str]:
        """The names of the hyperparameters."""
        return _parameters_of(self._factory).keys()

    def make(self, overrides: Mapping[str, Any] | None = None) -> GradientTransformation:
        """Return the transformation, with some of its arguments replaced.

        Raises:
            TypeError: the factory has no argument of that name.
        """
        return self._factory(**self.replace(overrides or {})._arguments)

    def replace(self, overrides: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some of its arguments replaced.

        Raises:
            TypeError: the factory has no argument of that name.
        """
        known = _parameters_of(self._factory)
        for name in overrides:
            if name not in known:
                raise TypeError(
                    f'{self._factory.__name__} has no hyperparameter {name!r}'
                    f'{suggestion(name, known)}; it has {", ".join(known)}'
                )
        return Recipe(self._factory, {**self._arguments, **overrides})


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``', did you mean ...?'`` for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f', did you mean {close[0]!r}?' if close else ''


@functools.cache
def _parameters_of(
    factory: Callable[..., GradientTransformation],
) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory).parameters


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
