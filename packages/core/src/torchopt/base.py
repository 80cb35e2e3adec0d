"""Gradient transformations, which are pairs of pure functions, and their composition."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch

from torchopt.authoring.inplace import functional, lower_inplace
from torchopt.authoring.origin import origin_of
from torchopt.authoring.state import saveable
from torchopt.typing import InitFn, OptState, Params, TreeT, UpdateFn

__all__ = [
    'ChainedGradientTransformation',
    'EmptyState',
    'FusedTransformation',
    'GradientTransformation',
    'IdentityGradientTransformation',
    'StepInPlace',
    'UninitializedState',
    'chain',
    'identity',
]


@saveable
class EmptyState(NamedTuple):
    """The state of a stateless transformation."""


class UninitializedState(NamedTuple):
    """Stands for a state that has not been made yet, in code that keeps states itself."""


class GradientTransformation(NamedTuple):
    """A pair of pure functions that turns gradients into updates.

    Attributes:
        init: ``init(params) -> state``.
        update: ``update(updates, state, *, params=None, inplace=True) -> (updates, state)``.
            With ``inplace=False`` the results are new tensors, differentiable with respect to all
            inputs. With ``inplace=True`` they are written into the tensors of ``updates`` and
            ``state``, unless that would cut a graph: if grad mode is on and the updates, the state
            or a hyperparameter carry a graph, or if a transform of ``torch.func`` is active,
            ``inplace=True`` does the same as ``inplace=False``.
    """

    init: InitFn
    update: UpdateFn

    def chain(self, after: GradientTransformation) -> GradientTransformation:
        """Return the transformation that applies this one, then ``after``."""
        return chain(self, after)

    def __repr__(self) -> str:
        origin = origin_of(self.init)
        return object.__repr__(self) if origin is None else str(origin)

    def __reduce__(self) -> Any:
        origin = origin_of(self.init)
        if origin is None:
            return type(self), self._new_arguments()
        return functools.partial(origin.factory, **origin.arguments), ()

    def _new_arguments(self) -> tuple[Any, ...]:
        return self.init, self.update

    def __copy__(self) -> GradientTransformation:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GradientTransformation:
        # A transformation is immutable, and tensor hyperparameters must keep their identity.
        return self


Maybe: TypeAlias = torch.Tensor | None
Commit: TypeAlias = Callable[[], None]


class StepInPlace(Protocol):
    """The steps of one list of parameters, each in one pass over memory."""

    def __call__(
        self, gradients: list[Maybe], state: OptState, params: list[torch.Tensor]
    ) -> Commit | None:
        """Validate a step; return the function that takes it.

        Args:
            gradients: One entry per parameter; None where there is no gradient.
            state: The state of these parameters.
            params: The parameters.

        Returns:
            ``commit``, which writes the new parameters and the next state into the tensors that
            were given. It only writes: all validation has happened. None if one pass cannot take
            this step.
        """
        ...

    def set_lr(self, lr: float) -> None:
        """Take another learning rate, where it was a number before."""
        ...


class FusedTransformation(GradientTransformation):
    """A transformation that can compute and apply its updates in one pass over memory.

    Attributes:
        in_place: ``in_place()`` returns a :class:`~torchopt.base.StepInPlace` for one list of
            parameters. Another list needs another one: it may keep memory from validation until
            the step is taken.
    """

    in_place: Callable[[], StepInPlace]

    def __new__(
        cls, init: InitFn, update: UpdateFn, in_place: Callable[[], StepInPlace]
    ) -> FusedTransformation:
        """Make the transformation from its three functions."""
        self = super().__new__(cls, init, update)
        self.in_place = in_place
        return self

    def _new_arguments(self) -> tuple[Any, ...]:
        return self.init, self.update, self.in_place


class IdentityGradientTransformation(GradientTransformation):
    """The identity, which passes updates through unchanged. All instances are equal."""

    __slots__ = ()

    def __new__(cls) -> IdentityGradientTransformation:
        """Make the identity, which takes no arguments."""
        return super().__new__(cls, cls._init, cls._update)

    def __repr__(self) -> str:
        return 'identity()'

    def _new_arguments(self) -> tuple[Any, ...]:
        return ()

    @staticmethod
    def _init(params: Params) -> OptState:
        return EmptyState()

    @staticmethod
    def _update(
        updates: TreeT,
        state: OptState,
        *,
        params: Params | None = None,
        inplace: bool = True,
    ) -> tuple[TreeT, OptState]:
        return updates, state


class ChainedGradientTransformation(GradientTransformation):
    """Applies transformations one after the other; its state is the tuple of their states.

    Two chains are equal if their ``transformations`` are. Make one with :func:`chain`, which
    flattens nested chains and drops identities.
    """

    transformations: tuple[GradientTransformation, ...]

    def __new__(cls, *transformations: GradientTransformation) -> ChainedGradientTransformation:
        """Compose ``transformations``, from first to last."""
        steps = [functional(member.update) for member in transformations]

        def init(params: Params) -> OptState:
            return tuple(member.init(params) for member in transformations)

        def update(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
            if not isinstance(state, tuple) or len(state) != len(transformations):
                raise ValueError(
                    f'a chain of {len(transformations)} transformations needs the tuple of '
                    f'{len(transformations)} states that its init returns, '
                    f'got {type(state).__name__}'
                    + (f' of length {len(state)}' if isinstance(state, tuple) else '')
                )
            new_states = []
            for step, member_state in zip(steps, state):
                updates, new_state = step(updates, member_state, params)
                new_states.append(new_state)
            return updates, tuple(new_states)

        self = super().__new__(cls, init, lower_inplace(update))
        self.transformations = transformations
        return self

    def __repr__(self) -> str:
        origin = origin_of(self.init)
        return f'chain{self.transformations!r}' if origin is None else str(origin)

    def _new_arguments(self) -> tuple[Any, ...]:
        return self.transformations

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ChainedGradientTransformation):
            return self.transformations == other.transformations
        return NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.transformations)


def identity() -> IdentityGradientTransformation:
    """Return the transformation that passes updates through unchanged."""
    return IdentityGradientTransformation()


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Return the transformation that applies ``transformations`` from first to last.

    Nested chains are flattened and identities dropped, so that ``chain`` is associative and
    :func:`identity` its neutral element.

    Example:
        >>> import torchopt
        >>> clipped = torchopt.chain(torchopt.clip_grad_norm(1.0), torchopt.sgd(lr=0.1))
        >>> torchopt.chain() == torchopt.base.identity()
        True

    Raises:
        TypeError: an argument is not a :class:`GradientTransformation`.
    """
    flat: list[GradientTransformation] = []
    for position, member in enumerate(transformations):
        if not isinstance(member, GradientTransformation):
            raise TypeError(
                f'chain takes gradient transformations, got {type(member).__name__} '
                f'as argument {position}'
            )
        if isinstance(member, ChainedGradientTransformation):
            flat.extend(member.transformations)
        elif not isinstance(member, IdentityGradientTransformation):
            flat.append(member)
    if not flat:
        return identity()
    return flat[0] if len(flat) == 1 else ChainedGradientTransformation(*flat)
