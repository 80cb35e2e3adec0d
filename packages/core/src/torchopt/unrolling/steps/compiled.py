"""Runs a compiled step and its compiled derivative, for any number of steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from torchopt import pytree
from torchopt.authoring.torch_internals import is_mapped_by_autograd
from torchopt.unrolling.context.random_state import preserved
from torchopt.unrolling.functional_loss import FunctionalLoss
from torchopt.unrolling.leaves import (
    Leaves,
    flatten,
    map_tensors,
    template_of,
    tensors_of,
)
from torchopt.unrolling.loop import Loop, Step
from torchopt.unrolling.steps.call import StepResult
from torchopt.unrolling.steps.checkpoint import Checkpoint
from torchopt.unrolling.steps.compilation import Backend, compiled_for, standard_layout
from torchopt.unrolling.steps.eager import Eager
from torchopt.unrolling.steps.recording import recorded
from torchopt.unrolling.steps.selection import Selection
from torchopt.unrolling.steps.shortcut import Shortcut
from torchopt.unrolling.vjp import Cotangents


class Compiled:
    """The engine with two graphs, a step and its vjp, that serve every step.

    The graphs are kept with the code of the step and serve later loops, too, as long as Dynamo's
    guards hold: the same closure, structures, shapes and dtypes. Where only steps run between
    steps, the guards are asked only where a pass begins; see :class:`.Shortcut`.
    """

    compares = False

    def __init__(self, loop: Loop, backend: Backend, *, undisturbed: bool) -> None:
        """Compile for a loop.

        Args:
            loop: The loop.
            backend: What compiles.
            undisturbed: Whether only steps run between steps, and carries come back from their
                storage in the layout that they had.
        """
        self._template = template_of(loop.carry)
        self._run = compiled_for(loop.step, _run, backend)
        self._vjp = compiled_for(loop.step, _vjp, backend, 'the derivative of ')
        self._was_undisturbed = self._undisturbed = undisturbed
        self._shortcut = Shortcut()
        self._vjp_shortcut = Shortcut()
        self._y_structure: pytree.PyTreeSpec | None = None
        self._selection: Selection | None = None
        self._loose: list[int] = []

    def begin(self, loop: Loop, seen: Iterable[Any]) -> None:
        """Let the losses of modules among ``seen`` find out what they use."""
        if any(isinstance(part, FunctionalLoss) for part in seen):
            _let_losses_find_unused(loop)

    def turn_back(self, *, observed: bool) -> None:
        """Ask the guards again; the layouts of the carries stay known."""
        self._shortcut.close()
        self._vjp_shortcut = Shortcut()
        self._selection = None
        self._undisturbed = self._was_undisturbed and not observed

    def is_direct(self, number: int, *, backward: bool) -> bool:
        """Tell whether Dynamo's guards and bytecode are passed by."""
        if backward:
            return self._shortcut.knows(number) and self._vjp_shortcut.serves(-number)
        return self._shortcut.serves(number)

    def run(self, loop: Loop, checkpoint: Checkpoint, x: Leaves) -> StepResult:
        """Run a step without a graph.

        Raises:
            TypeError: a leaf of the carry that is not a tensor has changed, which would make
                another graph.
        """
        number, end = checkpoint.number, len(checkpoint.carry)
        if self.is_direct(number, backward=False) and self._y_structure is not None:
            with torch.enable_grad():  # as in Eager.run
                results = self._shortcut([*_contiguous_carry(checkpoint), *x, *loop.consts])
            return StepResult(results[:end], results[end:], self._y_structure)
        if template_of(checkpoint.carry) != self._template:
            raise TypeError(
                f'the carry before step {loop.first + number} holds other numbers than '
                'the first carry: compiled steps need counters that are tensors'
            )
        step, compiled = loop.step, self._run

        def compiled_step(carry: Any, x: Any, consts: Any) -> Any:
            return compiled(step, carry, x, consts)

        checkpoint = checkpoint._replace(carry=_contiguous_carry(checkpoint))
        with recorded() as calls:
            call = Eager().call(loop._replace(step=compiled_step), checkpoint, x)
        if self._undisturbed:
            carry, y, self._y_structure = call.result
            self._shortcut.note(number, calls, call.arguments, [*carry, *y])
        return call.detached()

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
        number = checkpoint.number
        arguments = [*_contiguous_carry(checkpoint), *x, *loop.consts]
        if self.is_direct(number, backward=True) and self._selection is not None:
            dense = self._selection.following(cotangents, self._loose)
            return self._selection.placed(self._vjp_shortcut([*arguments, *dense]))
        if any(map(is_mapped_by_autograd, cotangents)):
            raise RuntimeError(
                'a compiled step takes one cotangent at a time: leave out compile=..., or '
                'is_grads_batched=True and vectorize=True'
            )
        self._selection = selection = Selection.of(checkpoint.carry, cotangents, needed)
        dense = selection.dense(checkpoint.carry, cotangents)
        with recorded() as calls:
            found = self._vjp(
                loop.step,
                pytree.tree_unflatten(loop.structure, arguments),
                pytree.tree_unflatten(loop.structure, _places(arguments, selection.needed)),
                selection.y_mask,
                dense,
            )
        if self._undisturbed and self._shortcut.knows(number):
            self._vjp_shortcut.note(-number, calls, [*arguments, *dense], found)
            self._loose = selection.loose(found)
        return selection.placed(found)


def _let_losses_find_unused(loop: Loop) -> None:
    """Run the first step eagerly.

    Which parameters the loss depends on shows in a graph of autograd, which a traced step does not
    have. Every loop does this anew, because the answer may depend on what the step captures.
    """
    if loop.length == 0:
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
