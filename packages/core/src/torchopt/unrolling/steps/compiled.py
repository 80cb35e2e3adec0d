"""Runs a compiled step and its compiled derivative, for any number of steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.torch_internals import is_mapped_by_autograd
from torchopt.unrolling.context.random_state import preserved
from torchopt.unrolling.context.reachable import captured_state
from torchopt.unrolling.functional_loss import FunctionalLoss
from torchopt.unrolling.leaves import (
    Leaves,
    flatten,
    is_differentiable,
    map_tensors,
    template_of,
    tensors_of,
)
from torchopt.unrolling.loop import Loop, Step
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.compilation import Backend, compiled_for, standard_layout
from torchopt.unrolling.steps.eager import Eager
from torchopt.unrolling.vjp import Cotangents


class Compiled:
    """The engine with two graphs, a step and its vjp, that serve every step.

    The graphs are kept with the code of the step and serve later loops, too, as long as Dynamo's
    guards hold: the same closure, structures, shapes and dtypes.
    """

    def __init__(self, loop: Loop, backend: Backend) -> None:
        _let_losses_find_unused(loop)
        self._template = template_of(loop.carry)
        self._run = compiled_for(loop.step, _run, backend)
        self._vjp = compiled_for(loop.step, _vjp, backend)

    def run(self, loop: Loop, checkpoint: Checkpoint, x: Leaves) -> StepResult:
        """Run a step without a graph.

        Raises:
            TypeError: a leaf of the carry that is not a tensor has changed, which would make
                another graph.
        """
        if template_of(checkpoint.carry) != self._template:
            raise TypeError(
                f'the carry before step {loop.first + checkpoint.number} holds other numbers than '
                'the first carry: compiled steps need counters that are tensors'
            )
        step, compiled = loop.step, self._run

        def compiled_step(carry: Any, x: Any, consts: Any) -> Any:
            return compiled(step, carry, x, consts)

        checkpoint = checkpoint._replace(carry=_contiguous_carry(checkpoint))
        return Eager().run(loop._replace(step=compiled_step), checkpoint, x)

    def vjp(
        self,
        loop: Loop,
        checkpoint: Checkpoint,
        x: Leaves,
        cotangents: Cotangents,
        needed: Sequence[bool],
    ) -> Cotangents:
        """Run the compiled vjp of a step.

        Raises:
            RuntimeError: several vjps are wanted at once.
        """
        if any(map(is_mapped_by_autograd, cotangents)):
            raise RuntimeError(
                'a compiled step takes one cotangent at a time: leave out compile=..., or '
                'is_grads_batched=True and vectorize=True'
            )
        arguments = [*_contiguous_carry(checkpoint), *x, *loop.consts]
        carry = tensors_of(checkpoint.carry)
        # Differentiate the first step by its whole carry, too: another choice is another graph.
        differentiable = [is_differentiable(tensor) for tensor in carry]
        needed = [*differentiable, *needed[len(carry) :]]
        # One layout, too: the first cotangent is often expanded, with strides of 0.
        dense = [
            standard_layout(torch.zeros_like(tensor) if cotangent is None else cotangent)
            for tensor, cotangent, is_needed in zip(carry, cotangents, differentiable)
            if is_needed
        ]
        y_cotangents = cotangents[len(carry) :]
        dense += [standard_layout(cotangent) for cotangent in y_cotangents if cotangent is not None]
        found = iter(
            self._vjp(
                loop.step,
                pytree.tree_unflatten(loop.structure, arguments),
                pytree.tree_unflatten(loop.structure, _places(arguments, needed)),
                tuple(cotangent is not None for cotangent in y_cotangents),
                dense,
            )
        )
        return [next(found) if need else None for need in needed]


def _let_losses_find_unused(loop: Loop) -> None:
    """Run the first step eagerly if it has a loss of a module.

    Which parameters the loss depends on shows in a graph of autograd, which a traced step does not
    have. Every loop does this anew, because the answer may depend on what the step captures.
    """
    found = captured_state(loop.step)
    if loop.length == 0 or not any(isinstance(part, FunctionalLoss) for _, part in found):
        return
    tensors = loop.tensors()
    checkpoint = Checkpoint.capture(0, loop.carry, tensors, None)
    with preserved(tensors):
        Eager().run(loop, checkpoint, loop.rows()(0))


def _places(arguments: Leaves, needed: Sequence[bool]) -> Leaves:
    """Number the tensors that are differentiated by; all other leaves become None."""
    numbers = itertools.count()
    supply = iter(needed)
    return [
        next(numbers) if isinstance(leaf, torch.Tensor) and next(supply) else None
        for leaf in arguments
    ]


def _contiguous_carry(checkpoint: Checkpoint) -> Leaves:
    # The caller chose the layout of the first carry; the step, the layout of all others.
    carry = checkpoint.carry
    return map_tensors(standard_layout, carry) if checkpoint.number == 0 else carry


def _run(step: Step, carry: Any, x: Any, consts: Any) -> Any:
    return step(carry, x, consts)


def _vjp(
    step: Step,
    arguments: Any,
    places: Any,
    y_mask: tuple[bool, ...],
    cotangents: list[torch.Tensor],
) -> list[torch.Tensor]:
    def outputs(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args: Any = pytree.tree_map(
            lambda leaf, place: leaf if place is None else inputs[place],
            arguments,
            places,
            none_is_leaf=True,
        )
        new_carry, y = step(*args)
        masked_y = [leaf for leaf, need in zip(tensors_of(flatten(y)[0]), y_mask) if need]
        # The same leaves are differentiable in the input and output carry.
        return (*_by_place(new_carry, places[0]), *masked_y)

    result: Any = torch.func.vjp(outputs, *_by_place(arguments, places))
    return list(result[1](tuple(cotangents)))


def _by_place(tree: Any, places: Any) -> list[torch.Tensor]:
    """Return the numbered leaves of ``tree``, in the order of their numbers.

    A map, because Dynamo of torch 2.13 cannot flatten a tree that holds an empty dictionary, and
    visits the keys of other dictionaries in another order.
    """
    found: dict[int, torch.Tensor] = {}

    def put(leaf: Any, place: int | None) -> None:
        if place is not None:
            found[place] = leaf

    pytree.tree_map(put, tree, places, none_is_leaf=True)
    return [found[place] for place in range(len(found))]
