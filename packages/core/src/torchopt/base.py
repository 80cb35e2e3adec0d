"""The gradient transformation, a pair of pure functions, and how pairs are composed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from torchopt.authoring.inplace import lower_inplace
from torchopt.authoring.state import saveable
from torchopt.typing import InitFn, OptState, Params, TreeT, UpdateFn, Updates

__all__ = [
    'ChainedGradientTransformation',
    'EmptyState',
    'FusedTransformation',
    'GradientTransformation',
    'IdentityGradientTransformation',
    'chain',
    'identity',
]


@saveable
class EmptyState(NamedTuple):
    """The state of a transformation that keeps none."""


class GradientTransformation(NamedTuple):
    """A pair of pure functions that turns gradients into updates.

    Attributes:
        init: ``init(params) -> state``.
        update: ``update(updates, state, *, params=None, inplace=True) -> (updates, state)``.
            With ``inplace=True`` the results are written, without a graph, into the tensors of
            ``updates`` and ``state``; with ``inplace=False`` they are new tensors, differentiable
            with respect to everything that went in.
    """

    init: InitFn
    update: UpdateFn

    def chain(self, after: GradientTransformation) -> GradientTransformation:
        """Return the transformation that applies this one, then ``after``."""
        return chain(self, after)


Prepare: TypeAlias = Callable[[Updates, OptState, Params, bool], Callable[[], OptState] | None]


class FusedTransformation(GradientTransformation):
    """One that can take a whole step, its update and its application, in one pass over memory.

    Attributes:
        prepare: ``prepare(updates, state, params, keep_state)`` returns ``commit``, which writes
            the new parameters into the tensors of ``params`` and returns the next state. Unless
            ``keep_state``, the next state is written into the old one. Returns None where one pass
            can't do it. All validation happens in ``prepare``; ``commit`` only writes.
    """

    prepare: Prepare

    def __new__(cls, init: InitFn, update: UpdateFn, prepare: Prepare) -> FusedTransformation:
        """Make the transformation from its three functions."""
        self = super().__new__(cls, init, update)
        self.prepare = prepare
        return self


class IdentityGradientTransformation(GradientTransformation):
    """Passes updates through unchanged; the neutral element of :func:`chain`. All are equal."""

    __slots__ = ()

    def __new__(cls) -> IdentityGradientTransformation:
        """Make the pair, which needs no argument."""
        return super().__new__(cls, cls._init, cls._update)

    def __getnewargs__(self) -> tuple[()]:
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

        def init(params: Params) -> OptState:
            return tuple(member.init(params) for member in transformations)

        def update(updates: Any, state: OptState, params: Params | None) -> tuple[Any, OptState]:
            if not isinstance(state, tuple) or len(state) != len(transformations):
                raise ValueError(
                    f'a chain of {len(transformations)} transformations needs a tuple of as many '
                    f'states, as its init returns, got {type(state).__name__}'
                    + (f' of length {len(state)}' if isinstance(state, tuple) else '')
                )
            new_states = []
            for member, member_state in zip(transformations, state):
                updates, new_state = member.update(
                    updates, member_state, params=params, inplace=False
                )
                new_states.append(new_state)
            return updates, tuple(new_states)

        self = super().__new__(cls, init, lower_inplace(update))
        self.transformations = transformations
        return self

    def __getnewargs__(self) -> tuple[GradientTransformation, ...]:
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
