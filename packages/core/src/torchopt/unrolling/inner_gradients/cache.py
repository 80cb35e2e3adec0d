"""The inner gradients of one step, cached so that a second run need not compute them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from torchopt import pytree
from torchopt.authoring.shards import placement_of
from torchopt.unrolling.context.attributes import PlainAttributes
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.inner_gradients.gradient_vjp import InnerGradient, Order, gradient_vjp
from torchopt.unrolling.leaves import Leaves, detached, fill, flatten, template_of, tensors_of


class CacheEntry(NamedTuple):
    """The result of an inner gradient, and what it found when it was computed.

    Attributes:
        leaves: Leaves of the result, without history.
        structure: Their tree.
        before: The generators before.
        after: The generators after.
        attributes: Attributes of the modules that the function sees; None where they are taken to
            be what the step found.
    """

    leaves: Leaves
    structure: pytree.PyTreeSpec
    before: RandomState
    after: RandomState
    attributes: PlainAttributes | None

    def replayed(self, gradient: InnerGradient, order: Order, inputs: list[torch.Tensor]) -> Any:
        """Return the result with a derivative, for which the gradient will be computed again."""
        cached: Any = _CachedGradient.apply
        outputs = cached(
            gradient, order, self.before, self.attributes, tensors_of(self.leaves), *inputs
        )
        return pytree.tree_unflatten(self.structure, fill(template_of(self.leaves), outputs))


class GradientCache:
    """The results of one step's inner gradients, in the order in which the step took them."""

    def __init__(self, order: Order) -> None:
        self._order: Order = order
        self._entries: list[CacheEntry | list[torch.Tensor]] = []
        self._position: int | None = None

    @staticmethod
    @contextmanager
    def recording(cache: GradientCache | None) -> Iterator[None]:
        """Store the gradients that are computed in the block; None: store nothing."""
        if cache is not None:
            cache._entries, cache._position = [], None
        with _activated(cache):
            yield

    @staticmethod
    @contextmanager
    def replaying(cache: GradientCache | None) -> Iterator[None]:
        """Answer from ``cache`` for the gradients in the block; None: compute them.

        The backward pass through the block must follow at once.
        """
        if cache is not None:
            cache._position = 0
        with _activated(cache, is_differentiated=True):
            yield

    @property
    def entries(self) -> list[CacheEntry | list[torch.Tensor]]:
        """The results, and the totals over parts, in their order."""
        return self._entries

    @classmethod
    def of(cls, order: Order, entries: Sequence[CacheEntry | list[torch.Tensor]]) -> GradientCache:
        """Return a cache of results that were stored elsewhere."""
        cache = cls(order)
        cache._entries = list(entries)
        return cache

    def mapped(self, fn: Callable[[Any], Any]) -> GradientCache:
        """Return a cache with ``fn`` applied to every leaf of the results."""
        return GradientCache.of(
            self._order,
            [
                entry._replace(leaves=[*map(fn, entry.leaves)])
                if isinstance(entry, CacheEntry)
                else [*map(fn, entry)]
                for entry in self._entries
            ],
        )

    def gradient(self, gradient: InnerGradient, inputs: list[torch.Tensor]) -> Any:
        """Return the gradient, value and auxiliary output: computed and stored, or replayed."""
        if self._position is not None:
            return self._replayed(gradient, inputs)
        self._require_no_shards(inputs)
        result, entry = _computed(gradient, inputs, None)
        self._entries.append(entry)
        return result

    def gradient_of_part(
        self, gradient: InnerGradient, inputs: list[torch.Tensor], modules: list[nn.Module]
    ) -> Any:
        """Return the same for a gradient that counts in a :meth:`total` alone: 0 is stored."""
        if self._position is not None:
            return self._replayed(gradient, inputs)
        self._require_no_shards(inputs)
        result, entry = _computed(gradient, inputs, PlainAttributes(modules))
        for place, leaf in enumerate(flatten(result[0])[0]):
            entry.leaves[place] = leaf.new_zeros(()).expand(leaf.shape)
        self._entries.append(entry)
        return result

    def total(self, computed: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return tensors that were computed from gradients of parts, with the values stored."""
        if self._position is None:
            self._entries.append(detached(computed))
            return computed
        known = self._next()
        assert isinstance(known, list)
        replaced: Any = _Replaced.apply
        return list(replaced(known, *computed))

    def _replayed(self, gradient: InnerGradient, inputs: list[torch.Tensor]) -> Any:
        entry = self._next()
        assert isinstance(entry, CacheEntry)
        entry.after.restore()
        return entry.replayed(gradient, self._order, inputs)

    def _require_no_shards(self, inputs: list[torch.Tensor]) -> None:
        if self._order == 'forward-over-reverse' and any(map(placement_of, inputs)):
            raise RuntimeError(
                "order='forward-over-reverse' moves tangents with torch.func, which refuses "
                "DTensors: use order='reverse-over-reverse'"
            )

    def _next(self) -> CacheEntry | list[torch.Tensor]:
        assert self._position is not None
        if self._position >= len(self._entries):
            raise RuntimeError(
                'a step takes more inner gradients when it is run again than in its first run: it '
                'must depend on its arguments alone'
            )
        self._position += 1
        return self._entries[self._position - 1]


def rebuilt(gradient: InnerGradient, inputs: list[torch.Tensor], modules: list[nn.Module]) -> Any:
    """Return a gradient without its graph, which is built when the derivative is taken.

    The graph is then freed before the next one is built. The backward pass must follow at once, in
    the surroundings of the step, and is not differentiated again.

    Args:
        gradient: What to compute.
        inputs: Tensors among its arguments.
        modules: What will have the attributes again that it has now.
    """
    constants = [tensor.detach() for tensor in inputs]
    with torch.no_grad():
        _, entry = _computed(gradient, constants, PlainAttributes(modules))
    return entry.replayed(gradient, 'reverse-over-reverse', inputs)


def _computed(
    gradient: InnerGradient, inputs: list[torch.Tensor], attributes: PlainAttributes | None
) -> tuple[Any, CacheEntry]:
    """Return the result of a gradient, and its entry."""
    before = RandomState.capture(inputs)
    with inside_gradient():
        result = gradient.compute(inputs)
    leaves, structure = flatten(result)
    after = RandomState.capture(inputs, before)
    return result, CacheEntry(detached(leaves), structure, before, after, attributes)


class _Active(threading.local):
    cache: GradientCache | None = None
    is_differentiated: bool = False


active = _Active()
"""What is known of the step that runs in this thread.

Attributes:
    cache: Where its gradients are kept, or were.
    is_differentiated: Whether its backward pass follows at once.
"""


@contextmanager
def _activated(cache: GradientCache | None, *, is_differentiated: bool = False) -> Iterator[None]:
    before = active.cache, active.is_differentiated
    active.cache, active.is_differentiated = cache, is_differentiated
    try:
        yield
    finally:
        active.cache, active.is_differentiated = before


def inside_gradient() -> AbstractContextManager[None]:
    """Let gradients in the block be part of another one, and not taken by the step itself."""
    is_needed = active.cache is not None or active.is_differentiated
    return _activated(None) if is_needed else nullcontext()


class _CachedGradient(torch.autograd.Function):
    """A gradient that is known already: nothing is computed until its derivative is wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: InnerGradient,
        order: Order,
        random: RandomState,
        attributes: PlainAttributes | None,
        results: list[torch.Tensor],
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.gradient, ctx.order, ctx.random, ctx.attributes = gradient, order, random, attributes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(result.detach() for result in results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: torch.Tensor | None
    ) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[5:]
        inputs = list(ctx.saved_tensors)
        with nullcontext() if ctx.attributes is None else ctx.attributes.replayed():
            found = gradient_vjp(ctx.gradient, ctx.order, ctx.random, inputs, cotangents, needed)
        return None, None, None, None, None, *found


class _Replaced(torch.autograd.Function):
    """Tensors with the values of others, and their own derivative."""

    @staticmethod
    def forward(ctx: Any, values: list[torch.Tensor], *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(value.detach() for value in values)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: torch.Tensor | None
    ) -> tuple[Any, ...]:
        return None, *cotangents
