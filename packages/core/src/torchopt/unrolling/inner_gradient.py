"""Gradients inside of steps, which a strategy may remember instead of computing them again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.unrolling.internals import active_transform
from torchopt.unrolling.leaves import Leaves, detached, flatten, tensors_of
from torchopt.unrolling.products import Call, Order, products
from torchopt.unrolling.random_state import RandomState

_active = threading.local()


class _Record(NamedTuple):
    """An inner gradient, and the generators before and after it was computed."""

    leaves: Leaves
    structure: pytree.PyTreeSpec
    before: RandomState
    after: RandomState


class Tape:
    """The results of the inner gradients of one step, in the order in which it asked for them."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._records: list[_Record] = []
        self._position: int | None = None

    @staticmethod
    @contextmanager
    def recording(tape: Tape | None) -> Iterator[None]:
        """Let ``tape`` remember the gradients that are computed in the block."""
        if tape is not None:
            tape._records, tape._position = [], None
        with _as_active(tape):
            yield

    @staticmethod
    @contextmanager
    def replaying(tape: Tape | None) -> Iterator[None]:
        """Let ``tape`` answer for the gradients in the block."""
        if tape is not None:
            tape._position = 0
        with _as_active(tape):
            yield

    def gradient(self, call: Call, inputs: list[torch.Tensor]) -> Any:
        """Return ``call``'s gradient, value and auxiliary output: computed, or remembered."""
        if self._position is None:
            before = RandomState.capture(inputs)
            # What the gradient is made of is not itself a step.
            with _as_active(None):
                result = call.gradient(inputs)
            leaves, structure = flatten(result)
            after = RandomState.capture(inputs, before)
            self._records.append(_Record(detached(leaves), structure, before, after))
            return result
        if self._position >= len(self._records):
            raise RuntimeError(
                'a step asks for more inner gradients when it is run again than at first: it '
                'must depend on its arguments alone'
            )
        record = self._records[self._position]
        self._position += 1
        remembered: Any = _Remembered.apply
        outputs = iter(
            remembered(call, self._order, record.before, tensors_of(record.leaves), *inputs)
        )
        record.after.restore()
        filled = [
            next(outputs) if isinstance(leaf, torch.Tensor) else leaf for leaf in record.leaves
        ]
        return pytree.tree_unflatten(record.structure, filled)


@contextmanager
def _as_active(tape: Tape | None) -> Iterator[None]:
    before = getattr(_active, 'tape', None)
    _active.tape = tape
    try:
        yield
    finally:
        _active.tape = before


class _Remembered(torch.autograd.Function):
    """A gradient that is known already: nothing is computed before its derivative is wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        order: Order,
        random: RandomState,
        results: list[torch.Tensor],
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.call, ctx.order, ctx.random = call, order, random
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(result.detach() for result in results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: torch.Tensor | None
    ) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[4:]
        found = products(
            ctx.call, ctx.order, ctx.random, list(ctx.saved_tensors), cotangents, needed
        )
        return None, None, None, None, *found


def grad_and_value(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return :func:`torch.func.grad_and_value` of ``fn``, for use in a step of ``unroll``.

    It is the same function, but what it returns can be remembered: by
    ``Recomputed(keep_gradients=True)``, which then differentiates a step in two parts; not where
    the step calls it under ``torch.vmap`` or another transform.

    Args:
        fn: Returns a scalar, or with ``has_aux`` a pair of a scalar and a tree.
        argnums: Position, or positions, of the arguments to differentiate by.
        has_aux: Whether ``fn`` returns that pair.

    Returns:
        Function that returns ``(gradient, value)``, or ``(gradient, (value, aux))``.

    Example:
        >>> import torch
        >>> from torchopt import unrolling
        >>> unrolling.grad_and_value(torch.square)(torch.tensor(3.0))
        (tensor(6.), tensor(9.))
    """

    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        tape: Tape | None = getattr(_active, 'tape', None)
        # Results of a transform that the step applies are of no use outside of it.
        if tape is None or active_transform() != 'none':
            return torch.func.grad_and_value(fn, argnums, has_aux)(*args, **kwargs)
        call, inputs = Call.of(fn, argnums, has_aux, args, kwargs)
        return tape.gradient(call, inputs)

    return gradient_and_value


def grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return :func:`torch.func.grad` of ``fn``, as :func:`grad_and_value` does.

    Returns:
        Function that returns the gradient, or ``(gradient, aux)``.

    Example:
        >>> import torch
        >>> from torchopt import unrolling
        >>> unrolling.grad(torch.square)(torch.tensor(3.0))
        tensor(6.)
    """
    with_value = grad_and_value(fn, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        result, value = with_value(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient
