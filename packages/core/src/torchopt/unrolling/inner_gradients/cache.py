"""The inner gradients of one step, cached so that a second run need not compute them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from torchopt import pytree
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.inner_gradients.gradient_vjp import InnerGradient, Order, gradient_vjp
from torchopt.unrolling.leaves import Leaves, detached, fill, flatten, template_of, tensors_of


class CacheEntry(NamedTuple):
    """The result of an inner gradient, and the generators before and after."""

    leaves: Leaves
    structure: pytree.PyTreeSpec
    before: RandomState
    after: RandomState


class GradientCache:
    """The results of one step's inner gradients, in the order in which the step took them."""

    def __init__(self, order: Order) -> None:
        self._order: Order = order
        self._entries: list[CacheEntry] = []
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
        """Answer from ``cache`` for the gradients in the block; None: compute them."""
        if cache is not None:
            cache._position = 0
        with _activated(cache):
            yield

    @property
    def entries(self) -> list[CacheEntry]:
        """The results, as they can be stored elsewhere."""
        return self._entries

    @classmethod
    def of(cls, order: Order, entries: list[CacheEntry]) -> GradientCache:
        """Return a cache of results that were stored elsewhere."""
        cache = cls(order)
        cache._entries = entries
        return cache

    def mapped(self, fn: Callable[[Any], Any]) -> GradientCache:
        """Return a cache with ``fn`` applied to every leaf of the results."""
        return GradientCache.of(
            self._order,
            [entry._replace(leaves=[fn(leaf) for leaf in entry.leaves]) for entry in self._entries],
        )

    def gradient(self, gradient: InnerGradient, inputs: list[torch.Tensor]) -> Any:
        """Return the gradient, value and auxiliary output: computed and stored, or replayed."""
        if self._position is None:
            before = RandomState.capture(inputs)
            # Gradients inside of this one are part of its result, and not taken by the step.
            with _activated(None):
                result = gradient.compute(inputs)
            leaves, structure = flatten(result)
            after = RandomState.capture(inputs, before)
            self._entries.append(CacheEntry(detached(leaves), structure, before, after))
            return result
        if self._position >= len(self._entries):
            raise RuntimeError(
                'a step takes more inner gradients when it is run again than in its first run: it '
                'must depend on its arguments alone'
            )
        entry = self._entries[self._position]
        self._position += 1
        cached: Any = _CachedGradient.apply
        outputs = cached(gradient, self._order, entry.before, tensors_of(entry.leaves), *inputs)
        entry.after.restore()
        return pytree.tree_unflatten(entry.structure, fill(template_of(entry.leaves), outputs))


class _Active(threading.local):
    cache: GradientCache | None = None


active = _Active()
"""Holds the cache of the step that runs in this thread, if its gradients are kept."""


@contextmanager
def _activated(cache: GradientCache | None) -> Iterator[None]:
    before, active.cache = active.cache, cache
    try:
        yield
    finally:
        active.cache = before


class _CachedGradient(torch.autograd.Function):
    """A gradient that is known already: nothing is computed until its derivative is wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: InnerGradient,
        order: Order,
        random: RandomState,
        results: list[torch.Tensor],
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.gradient, ctx.order, ctx.random = gradient, order, random
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(result.detach() for result in results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: torch.Tensor | None
    ) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[4:]
        inputs = list(ctx.saved_tensors)
        found = gradient_vjp(ctx.gradient, ctx.order, ctx.random, inputs, cotangents, needed)
        return None, None, None, None, *found
