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


def arguments_of(
    factory: Callable[P, GradientTransformation],
) -> Callable[[Callable[[Self, Target], None]], Callable[Concatenate[Self, Target, P], None]]:
    """Write the ``__init__`` of an optimizer's class from the signature of its factory.

    It decorates a declaration that names what is optimised and has no body::

        class Adam(Optimizer):
            @arguments_of(rules.adam)
            def __init__(self, params: ParamsLike) -> None: ...

    The class then takes ``params`` followed by the arguments of ``factory``, with their defaults
    and types. It calls the ``__init__`` of its base class with ``params`` and a :class:`Recipe`.
    A class without a docstring gets one that names the factory.

    A class in three lines is as short as static types allow. Type checkers read its arguments from
    a decorated ``__init__``, but not from an assignment ``__init__ = ...`` or a class decorator. A
    class that a function returns cannot be used as an annotation.
    """

    def decorate(
        declaration: Callable[[Self, Target], None],
    ) -> Callable[Concatenate[Self, Target, P], None]:
        return _Initializer(declaration, factory)  # type: ignore[return-value]

    return decorate


class _Initializer:
    """Stands in for ``__init__`` until its class exists, which ``super`` needs."""

    def __init__(
        self, declaration: Callable[..., None], factory: Callable[..., GradientTransformation]
    ) -> None:
        self._factory = factory
        declared = inspect.signature(declaration).parameters.values()
        arguments = inspect.signature(factory).parameters.values()
        self._signature = inspect.Signature([*declared, *arguments])

    def __set_name__(self, owner: type[Any], name: str) -> None:
        factory, signature = self._factory, self._signature

        def __init__(*args: Any, **kwargs: Any) -> None:
            for unknown in kwargs.keys() - signature.parameters.keys():
                close = suggestion(unknown, signature.parameters)
                raise TypeError(f'{owner.__name__} has no argument {unknown!r}{close}')
            bound = signature.bind(*args, **kwargs).arguments
            (_, instance), (_, target), *arguments = bound.items()
            initialize: Any = super(owner, instance).__init__
            initialize(target, Recipe(factory, dict(arguments)))

        __init__.__module__ = owner.__module__
        __init__.__qualname__ = f'{owner.__qualname__}.{name}'
        __init__.__signature__ = signature  # type: ignore[attr-defined]
        setattr(owner, name, __init__)
        if owner.__doc__ is None:
            owner.__doc__ = f'The optimizer of :func:`torchopt.{factory.__name__}`, as a class.'
