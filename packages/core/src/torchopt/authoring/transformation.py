"""Transformations from a functional pair, which checks its parameters and knows no ``inplace``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchopt.authoring import checks
from torchopt.authoring.inplace import FunctionalUpdate, lower_inplace
from torchopt.base import EmptyState, GradientTransformation
from torchopt.typing import InitFn, OptState, Params


def transformation(init: InitFn, update: FunctionalUpdate) -> GradientTransformation:
    """Make a transformation from an ``init`` and a functional ``update``.

    Its ``init`` checks the parameters, and its ``update`` takes the keyword ``inplace``.
    """

    def checked_init(params: Params) -> OptState:
        checks.params(params)
        return init(params)

    return GradientTransformation(checked_init, lower_inplace(update))


def stateless(update: Callable[[Any, Params | None], Any]) -> GradientTransformation:
    """Make a stateless transformation from ``update(updates, params) -> updates``."""
    return transformation(
        lambda params: EmptyState(),
        lambda updates, state, params: (update(updates, params), state),
    )


def wrong_state(state: Any, state_class: type) -> TypeError:
    """Return the error for a state that is not a ``state_class``."""
    return TypeError(
        f'state must be a {state_class.__name__}, as returned by init, got {type(state).__name__}'
    )
