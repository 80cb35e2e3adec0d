"""Derivatives of functions of flat tensors, as functions of flat tensors again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch

from torchopt.authoring.torch_internals import in_dual_level, transforming
from torchopt.unrolling.context.autocast import without_autocast
from torchopt.unrolling.context.captures import tangents_recorded
from torchopt.unrolling.context.forward_grad import LikeReverseMode, like_reverse_mode
from torchopt.unrolling.leaves import is_differentiable
from torchopt.unrolling.vjp import vjp

Results = tuple[torch.Tensor | None, ...]
RootT = TypeVar('RootT', bound='Root', covariant=True)


class Root(Protocol):
    """The function at the bottom of all derivatives: a block.

    Attributes:
        input_count: How many tensors it takes. They come last among the arguments of a derivative.
    """

    input_count: int

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return the results for ``tensors``."""
        ...


class FlatFunction(Protocol[RootT]):
    """A block, or a derivative of any order, mapped or not."""

    @property
    def root(self) -> RootT:
        """The block."""
        ...

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return the results for ``tensors``; None stands for a result that is zero."""
        ...

    def on(self, root: Any) -> FlatFunction[Any]:
        """Return the same derivative of another block."""
        ...


@dataclass(frozen=True)
class _Derived(Generic[RootT]):
    fn: FlatFunction[RootT]

    @property
    def root(self) -> RootT:
        return self.fn.root

    def on(self, root: Any) -> Any:
        return replace(self, fn=self.fn.on(root))


@dataclass(frozen=True)
class Vjp(_Derived[RootT]):
    """The vector-Jacobian product: a function of cotangents, then of the inputs of ``fn``.

    Attributes:
        fn: What is differentiated.
        given: For every result of ``fn``, whether there is a cotangent.
        wanted: For every input of ``fn``, whether its cotangent is returned.
    """

    given: tuple[bool, ...]
    wanted: tuple[bool, ...]

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return one cotangent for each wanted input."""
        count = sum(self.given)
        cotangents, inputs = tensors[:count], tensors[count:]
        # Where another transform is at work, torch.autograd cannot be told what to track.
        if torch.compiler.is_compiling() or transforming():
            return self._by_transform(cotangents, inputs)
        # An input that already has a graph is differentiated again, by whoever gave it the graph.
        again = any(tensor.requires_grad for tensor in tensors)
        with torch.enable_grad():
            inputs = tuple(
                _requiring_grad(tensor) if want else tensor
                for tensor, want in zip(inputs, self.wanted)
            )
            results = _chosen(self.fn(*inputs), self.given)
            pairs = [pair for pair in zip(results, cotangents) if pair[0] is not None]
            results, cotangents = zip(*pairs) if pairs else ((), ())
            targets = _chosen(inputs, self.wanted)
            return tuple(vjp(results, cotangents, targets, create_graph=again))

    def _by_transform(
        self, cotangents: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> Results:
        def results(*moved: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            return _chosen(self.fn(*_replaced(inputs, self.wanted, moved)), self.given)

        pulled: Any = torch.func.vjp(results, *_chosen(inputs, self.wanted))
        # A compiled function runs without autocast, and traces no context like this one.
        traced = torch.compiler.is_compiling()
        with nullcontext() if traced else without_autocast(inputs):
            found: tuple[torch.Tensor, ...] = pulled[1](tuple(cotangents))
        return found


@dataclass(frozen=True)
class Jvp(_Derived[RootT]):
    """The Jacobian-vector product: a function of tangents, then of the inputs of ``fn``.

    Attributes:
        fn: What is differentiated.
        moving: For every input of ``fn``, whether there is a tangent.
        dual: Whether the tangents are those of a ``torch.autograd.forward_ad.dual_level``, and not
            of ``torch.func.jvp``, which cannot start inside of such a level.
        mode: What forward mode does differently where the graph is to be followed; None if nothing.
    """

    moving: tuple[bool, ...]
    dual: bool
    mode: LikeReverseMode | None = None

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return one tangent for each result; None where the result has no derivative."""
        count = sum(self.moving)
        tangents, inputs = tensors[:count], tensors[count:]
        if self.dual and in_dual_level():
            return self._by_dual_tensors(tangents, inputs)
        kinds: list[bool] = []

        def results(*moved: torch.Tensor) -> tuple[Any, ...]:
            with nullcontext() if self.mode is None else like_reverse_mode(**self.mode._asdict()):
                found = self.fn(*_replaced(inputs, self.moving, moved))
            kinds[:] = map(is_differentiable, found)
            return tuple(result for result in found if is_differentiable(result))

        # Tangents cannot have the layout of an expanded tensor.
        primals = tuple(tensor.contiguous() for tensor in _chosen(inputs, self.moving))
        pushed: Any = torch.func.jvp(results, primals, tangents)
        supply = iter(pushed[1])
        return tuple(next(supply) if kind else None for kind in kinds)

    def _by_dual_tensors(
        self, tangents: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> Results:
        make_dual: Any = torch.autograd.forward_ad.make_dual
        unpack_dual: Any = torch.autograd.forward_ad.unpack_dual
        with torch.enable_grad(), tangents_recorded():
            # They require grad, because to detach one, as Vjp would, is to drop its tangent.
            moved = [
                make_dual(_requiring_grad(primal).contiguous(), tangent)
                for primal, tangent in zip(_chosen(inputs, self.moving), tangents)
            ]
            found = self.fn(*_replaced(inputs, self.moving, moved))
            pushed = [None if result is None else unpack_dual(result).tangent for result in found]
        return tuple(
            torch.zeros_like(result)
            if tangent is None and result is not None and is_differentiable(result)
            else tangent
            for result, tangent in zip(found, pushed)
        )


@dataclass(frozen=True)
class Vmapped(_Derived[RootT]):
    """``fn`` under ``torch.vmap``; every result has the mapped dimension in front.

    Attributes:
        fn: What is mapped.
        in_dims: The mapped dimension of every input; None where an input is not mapped.
        randomness: As in ``torch.vmap``.
    """

    in_dims: tuple[int | None, ...]
    randomness: str

    def __call__(self, *tensors: torch.Tensor) -> Results:
        """Return the mapped results."""
        inputs = self.in_dims[len(self.in_dims) - self.root.input_count :]
        # A block whose inputs are not mapped was first run outside of this vmap, and draws the
        # same numbers for all of it.
        same = all(dim is None for dim in inputs)
        kinds: list[bool] = []

        def results(*moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.fn(*moved)
            kinds[:] = [result is not None for result in found]
            return tuple(result for result in found if result is not None)

        mapped = torch.vmap(results, self.in_dims, randomness='same' if same else self.randomness)(
            *tensors
        )
        supply = iter(mapped)
        return tuple(next(supply) if kind else None for kind in kinds)


def vmaps_of(fn: Any) -> list[Vmapped[Any]]:
    """Return the vmaps around ``fn``, the outermost first."""
    found = []
    while isinstance(fn, Vmapped):
        found.append(fn)
        fn = fn.fn
    return found


def innermost(fn: Any) -> Any:
    """Return ``fn`` without the vmaps around it."""
    vmaps = vmaps_of(fn)
    return vmaps[-1].fn if vmaps else fn


def _requiring_grad(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _chosen(tensors: Sequence[Any], mask: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(tensor for tensor, choice in zip(tensors, mask) if choice)


def _replaced(
    tensors: Sequence[torch.Tensor], mask: Sequence[bool], by: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    supply = iter(by)
    return [next(supply) if choice else tensor for tensor, choice in zip(tensors, mask)]
