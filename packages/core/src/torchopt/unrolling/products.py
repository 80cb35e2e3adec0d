"""Products of a vector with the derivative of a gradient, in two orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from torchopt import pytree
from torchopt.unrolling.closures import require_no_captures
from torchopt.unrolling.derivatives import Cotangents, partial_derivatives
from torchopt.unrolling.leaves import Leaves, fill, flatten, frame_of, is_hole, tensors_of
from torchopt.unrolling.random_state import Autocast, RandomState

Order: TypeAlias = Literal['reverse-over-reverse', 'forward-over-reverse']
"""How the derivative of an inner gradient is taken.

``'reverse-over-reverse'`` differentiates the graph of the inner backward pass;
``'forward-over-reverse'`` differentiates the whole gradient along the cotangent, without a graph of
it.
"""


class Call(NamedTuple):
    """A call of a function whose gradient is taken.

    Attributes:
        fn: Returns a scalar, or a pair of a scalar and a tree.
        argnums: Arguments to differentiate by.
        has_aux: Whether it returns the pair.
        frame: Leaves of the arguments and of those by name, with holes for the tensors.
        structure: Their tree.
        autocast: What was cast where it was called.
    """

    fn: Callable[..., Any]
    argnums: int | tuple[int, ...]
    has_aux: bool
    frame: Leaves
    structure: pytree.PyTreeSpec
    autocast: Autocast

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        argnums: int | tuple[int, ...],
        has_aux: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Call, list[torch.Tensor]]:
        """Return the call and the tensors among its arguments."""
        leaves, structure = flatten((args, kwargs))
        tensors = tensors_of(leaves)
        autocast = Autocast.capture(tensors)
        return cls(fn, argnums, has_aux, frame_of(leaves), structure, autocast), tensors

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments, and those by name, with ``tensors`` in their places."""
        arguments: Any = pytree.tree_unflatten(self.structure, fill(self.frame, tensors))
        args, kwargs = arguments
        return args, kwargs

    def gradient(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return what ``torch.func.grad_and_value`` gives."""
        args, kwargs = self.arguments(tensors)
        with self.autocast.replayed():
            return torch.func.grad_and_value(self.fn, self.argnums, self.has_aux)(*args, **kwargs)

    def evaluate(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the value and the auxiliary tensors."""
        args, kwargs = self.arguments(tensors)
        with self.autocast.replayed():
            value = self.fn(*args, **kwargs)
        return tensors_of(flatten(value)[0])

    def positions(self) -> list[int]:
        """Return which of the tensors are differentiated by, in the gradient's order."""
        numbers = itertools.count()
        tagged = [next(numbers) if is_hole(leaf) else None for leaf in self.frame]
        unflattened: Any = pytree.tree_unflatten(self.structure, tagged)
        args, _ = unflattened
        argnums = (self.argnums,) if isinstance(self.argnums, int) else self.argnums
        chosen, _ = flatten([args[number] for number in argnums])
        return [position for position in chosen if position is not None]


def products(
    call: Call,
    order: Order,
    random: RandomState,
    inputs: list[torch.Tensor],
    cotangents: Cotangents,
    needed: Sequence[bool],
) -> Cotangents:
    """Pull cotangents of a gradient, its value and auxiliary output back to the inputs.

    Args:
        call: The call whose gradient it is.
        order: How.
        random: The generators when the gradient was computed, from which all evaluations start.
        inputs: Tensors among its arguments.
        cotangents: First those of the gradient, then of the value and the auxiliary tensors.
        needed: The inputs whose cotangents are wanted.
    """
    fresh = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needed)]
    along = call.positions()
    random.restore()
    if order == 'reverse-over-reverse' or all(bar is None for bar in cotangents[: len(along)]):
        with torch.enable_grad():
            outputs = tensors_of(flatten(call.gradient(fresh))[0])
        _require_all_arguments(call, outputs, fresh)
        return partial_derivatives(outputs, cotangents, fresh)
    directions = [
        torch.zeros_like(inputs[position]) if bar is None else bar
        for position, bar in zip(along, cotangents)
    ]
    of_values = cotangents[len(along) :]
    with torch.enable_grad():
        values = call.evaluate(fresh)
    _require_all_arguments(call, values, fresh)
    plain = partial_derivatives(values, of_values, fresh)
    random.restore()
    chosen = [position for position, need in enumerate(needed) if need]

    def full_gradient(*moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = _replaced(inputs, along, moved)

        def value(*parts: torch.Tensor) -> torch.Tensor:
            return call.evaluate(_replaced(tensors, chosen, parts))[0]

        parts = tuple(tensors[position] for position in chosen)
        gradient: tuple[torch.Tensor, ...] = torch.func.grad(value, tuple(range(len(parts))))(
            *parts
        )
        return gradient

    primals = tuple(inputs[position] for position in along)
    # The inner backward pass, too, was run where the step stood.
    with torch.no_grad(), call.autocast.replayed():
        moved: Any = torch.func.jvp(full_gradient, primals, tuple(directions))
    supply = iter(moved[1])
    mixed = [next(supply) if need else None for need in needed]
    return [a if b is None else b if a is None else a + b for a, b in zip(plain, mixed)]


def _require_all_arguments(
    call: Call, outputs: list[torch.Tensor], inputs: list[torch.Tensor]
) -> None:
    require_no_captures(
        call.fn,
        outputs,
        inputs,
        place='a function whose gradient is kept (keep_gradients=True)',
        cure='Pass it to that function as an argument, or leave keep_gradients off',
    )


def _replaced(
    tensors: Sequence[torch.Tensor], positions: list[int], by: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    result = list(tensors)
    for position, tensor in zip(positions, by):
        result[position] = tensor
    return result
