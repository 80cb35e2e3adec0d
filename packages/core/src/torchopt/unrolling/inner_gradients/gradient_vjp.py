"""Vector-Jacobian products of a gradient, in two orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from torchopt import pytree
from torchopt.unrolling.context.attributes import PlainAttributes
from torchopt.unrolling.context.autocast import Autocast
from torchopt.unrolling.context.captures import require_no_captures
from torchopt.unrolling.context.forward_grad import like_reverse_mode
from torchopt.unrolling.context.random_state import RandomState
from torchopt.unrolling.inner_gradients.attention import differentiable_attention
from torchopt.unrolling.inner_gradients.by_autograd import grad_and_value_of
from torchopt.unrolling.leaves import (
    Leaves,
    fill,
    flatten,
    is_placeholder,
    template_of,
    tensors_of,
)
from torchopt.unrolling.vjp import Cotangents, vjp

Order: TypeAlias = Literal['reverse-over-reverse', 'forward-over-reverse']
"""How an inner gradient is differentiated.

``'reverse-over-reverse'`` differentiates the graph of the inner backward pass;
``'forward-over-reverse'`` differentiates the whole gradient along the cotangent, without a graph of
the inner backward pass.
"""


class InnerGradient(NamedTuple):
    """A gradient that a step takes: the function, and its arguments without their tensors.

    Attributes:
        fn: Returns a scalar, or a pair of a scalar and a tree.
        argnums: Positions of the arguments to differentiate by.
        has_aux: Whether ``fn`` returns the pair.
        template: Leaves of ``(args, kwargs)``, with placeholders for the tensors.
        structure: Their tree.
        autocast: The settings under which the gradient is taken.
    """

    fn: Callable[..., Any]
    argnums: int | tuple[int, ...]
    has_aux: bool
    template: Leaves
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
    ) -> tuple[InnerGradient, list[torch.Tensor]]:
        """Return the gradient, and the tensors among the arguments."""
        leaves, structure = flatten((args, kwargs))
        tensors = tensors_of(leaves)
        autocast = Autocast.capture(tensors)
        return cls(fn, argnums, has_aux, template_of(leaves), structure, autocast), tensors

    def compute(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return what ``torch.func.grad_and_value`` returns."""
        args, kwargs = self._arguments(tensors)
        with self.autocast.applied():
            return grad_and_value_of(self.fn, self.argnums, self.has_aux, args, kwargs)

    def evaluate(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the value and the auxiliary tensors, without the gradient."""
        args, kwargs = self._arguments(tensors)
        with self.autocast.applied(), differentiable_attention():
            value = self.fn(*args, **kwargs)
        return tensors_of(flatten(value)[0])

    def positions(self) -> list[int]:
        """Return which of the tensors are differentiated by, in the gradient's order."""
        numbers = itertools.count()
        numbered = [next(numbers) if is_placeholder(leaf) else None for leaf in self.template]
        unflattened: Any = pytree.tree_unflatten(self.structure, numbered)
        args, _ = unflattened
        argnums = (self.argnums,) if isinstance(self.argnums, int) else self.argnums
        chosen, _ = flatten([args[number] for number in argnums])
        return [position for position in chosen if position is not None]

    def _arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments: Any = pytree.tree_unflatten(self.structure, fill(self.template, tensors))
        args, kwargs = arguments
        return args, kwargs


def gradient_vjp(
    gradient: InnerGradient,
    order: Order,
    random: RandomState,
    inputs: list[torch.Tensor],
    cotangents: Cotangents,
    needed: Sequence[bool],
) -> Cotangents:
    """Return the cotangents of the inputs, given those of a gradient and its other outputs.

    Args:
        gradient: What is differentiated.
        order: How it is differentiated.
        random: The generators before the gradient was computed; every evaluation starts there.
        inputs: Tensors among its arguments.
        cotangents: First for the gradient, then for the value and the auxiliary tensors.
        needed: The inputs whose cotangents are wanted.
    """
    fresh = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needed)]
    positions = gradient.positions()
    random.restore()
    by_gradient, by_value = cotangents[: len(positions)], cotangents[len(positions) :]
    if order == 'reverse-over-reverse' or all(cotangent is None for cotangent in by_gradient):
        with torch.enable_grad():
            outputs = tensors_of(flatten(gradient.compute(fresh))[0])
        _require_all_arguments(gradient, outputs, fresh)
        return vjp(outputs, cotangents, fresh)
    # Evaluated twice, from the same counts and modes of modules.
    with torch.enable_grad(), PlainAttributes.of_captured(gradient.fn).replayed():
        values = gradient.evaluate(fresh)
    _require_all_arguments(gradient, values, fresh)
    first = vjp(values, by_value, fresh)
    random.restore()
    mixed = _hessian_vector_products(gradient, inputs, positions, by_gradient, needed)
    return [a if b is None else b if a is None else a + b for a, b in zip(first, mixed)]


def _hessian_vector_products(
    gradient: InnerGradient,
    inputs: list[torch.Tensor],
    positions: list[int],
    cotangents: Cotangents,
    needed: Sequence[bool],
) -> Cotangents:
    """Differentiate the gradient by all needed inputs along ``cotangents``, in forward mode.

    Second derivatives are symmetric, so that this is the wanted reverse-mode product.
    """
    chosen = [position for position, need in enumerate(needed) if need]

    def full_gradient(*moved: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = _replaced(inputs, positions, moved)

        def value(*parts: torch.Tensor) -> torch.Tensor:
            with like_reverse_mode(hooks_in_gradients=False):
                return gradient.evaluate(_replaced(tensors, chosen, parts))[0]

        parts = tuple(tensors[position] for position in chosen)
        found: tuple[torch.Tensor, ...] = torch.func.grad(value, tuple(range(len(parts))))(*parts)
        return found

    primals = tuple(inputs[position] for position in positions)
    tangents = tuple(
        torch.zeros_like(primal) if cotangent is None else cotangent
        for primal, cotangent in zip(primals, cotangents)
    )
    # The step ran the inner backward pass under its own autocast settings, too.
    with torch.no_grad(), gradient.autocast.applied():
        results: Any = torch.func.jvp(full_gradient, primals, tangents)
    supply = iter(results[1])
    return [next(supply) if need else None for need in needed]


def _require_all_arguments(
    gradient: InnerGradient, outputs: list[torch.Tensor], inputs: list[torch.Tensor]
) -> None:
    require_no_captures(
        gradient.fn,
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
