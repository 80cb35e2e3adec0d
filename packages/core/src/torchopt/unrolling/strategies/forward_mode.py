"""Forward mode: the derivatives travel with the carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from torchopt.authoring.shards import placement_of
from torchopt.authoring.step_marks import mark_loop
from torchopt.unrolling.context.captures import (
    require_no_captures,
    require_no_tangents,
    tangents_recorded,
)
from torchopt.unrolling.context.forward_grad import like_reverse_mode
from torchopt.unrolling.context.ranks import noting_tangents, require_same_on_ranks
from torchopt.unrolling.leaves import Leaves, fill, is_differentiable, template_of, tensors_of
from torchopt.unrolling.loop import Loop
from torchopt.unrolling.steps.call import StepResult, call_step
from torchopt.unrolling.strategies.base import Strategy
from torchopt.unrolling.sweep import Sweep, sweep


@dataclass(frozen=True)
class ForwardMode(Strategy):
    r"""Carry the derivative by every meta-parameter along, step by step.

    With a carry :math:`c` and meta-parameters :math:`\phi` (the elements of all tensors that
    require grad, in the initial carry, xs and consts), every step computes
    :math:`\partial c_{i+1} / \partial \phi` from :math:`\partial c_i / \partial \phi`.
    Memory: one tangent of the carry's size for every meta-parameter, whatever the number of steps.
    Time: about as many evaluations of a step. The forward-mode hypergradient of Franceschi et al.,
    *Forward and Reverse Gradient-Based Hyperparameter Optimization*, ICML 2017.

    Attributes:
        limit: Largest number of meta-parameters that is accepted.

    Raises:
        ValueError: more elements than ``limit`` require grad, or one of them is complex.
        RuntimeError: an argument is a DTensor; or the step sums over ranks, which have different
            meta-parameters.
    """

    limit: int = 64

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        inputs = loop.tensors()
        if any(placement_of(tensor) is not None for tensor in inputs):
            raise RuntimeError(
                'ForwardMode() moves tangents with torch.func, which refuses DTensors: use '
                'Recomputed() or Snapshots()'
            )
        self._require_few([tensor for tensor in inputs if tensor.requires_grad])
        results: list[Sweep] = []
        apply: Any = _ForwardModeLoop.apply
        outputs = apply(loop.template(), loop, results, *inputs)
        mark_loop(outputs, 'ForwardMode', results[0].taken, len(tensors_of(loop.carry)))
        supply = iter(outputs)
        carry, ys = (fill(part, supply) for part in (results[0].carry, results[0].ys))
        return results[0]._replace(carry=carry, ys=ys).unflatten(loop)

    def _require_few(self, differentiated: list[torch.Tensor]) -> None:
        elements = sum(tensor.numel() for tensor in differentiated)
        if elements > self.limit:
            shapes = ', '.join(str(tuple(tensor.shape)) for tensor in differentiated)
            raise ValueError(
                f'forward mode would carry {elements} tangents, one for every element that '
                f'requires grad (shapes {shapes}): detach what needs no gradient, raise '
                f'ForwardMode(limit={self.limit}), or use Recomputed() or Snapshots()'
            )
        if any(tensor.is_complex() for tensor in differentiated):
            raise ValueError(
                'forward mode takes derivatives with respect to real tensors only, not complex ones'
            )


class _ForwardModeLoop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, template: Loop, loop: Loop, results: list[Sweep], *inputs: torch.Tensor
    ) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        # Tangents cannot have the layout of an expanded tensor.
        detached = [
            tensor.detach().contiguous() if need else tensor.detach()
            for tensor, need in zip(inputs, needed)
        ]
        loop = template.filled(detached)._replace(until=loop.until, progress=loop.progress)
        tangents = _Tangents(loop, needed)
        with noting_tangents() as groups:
            final = sweep(loop, tangents.advance)
        differentiated = [tensor for tensor, need in zip(detached, needed) if need]
        require_same_on_ranks([*groups], differentiated)
        results.append(final._replace(carry=template_of(final.carry), ys=template_of(final.ys)))
        ctx.kinds = [
            (tensor.shape, tensor.dtype) if need else None for tensor, need in zip(inputs, needed)
        ]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tangents.of_outputs())
        return tuple(tensors_of([*final.carry, *final.ys]))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'the backward pass of unroll(..., backward=ForwardMode(...)) cannot be '
                'differentiated again (create_graph=True): use Stored() or Recomputed()'
            )
        total: torch.Tensor | None = None
        for cotangent, tangent in zip(cotangents, ctx.saved_tensors):
            if cotangent is None or tangent is None:
                continue
            # The real part of a complex product, because the inputs are real.
            part = torch.real(tangent.reshape(len(tangent), -1).conj() @ cotangent.reshape(-1))
            total = part if total is None else total + part
        return None, None, None, *_split(total, ctx.kinds)


def _split(
    total: torch.Tensor | None, kinds: list[tuple[torch.Size, torch.dtype] | None]
) -> Iterator[torch.Tensor | None]:
    """Yield the part of ``total`` that belongs to each input."""
    first = 0
    for kind in kinds:
        if kind is None or total is None:
            yield None
        else:
            shape, dtype = kind
            yield total[first : first + shape.numel()].view(shape).to(dtype)
            first += shape.numel()


class _Tangents:
    """Derivatives by all elements of the needed inputs, stacked along a leading dimension."""

    def __init__(self, loop: Loop, needed: tuple[bool, ...]) -> None:
        self._loop = loop
        inputs = loop.tensors()
        self._count = sum(tensor.numel() for tensor, need in zip(inputs, needed) if need)
        supply = iter(self._identity(inputs, needed))
        self._carry: list[torch.Tensor | None]
        self._carry, self._xs, self._consts = (
            [next(supply) for _ in tensors_of(part)] for part in (loop.carry, loop.xs, loop.consts)
        )
        self._ys: list[list[torch.Tensor | None]] = []

    def _identity(
        self, inputs: list[torch.Tensor], needed: tuple[bool, ...]
    ) -> Iterator[torch.Tensor | None]:
        first = 0
        for tensor, need in zip(inputs, needed):
            if not need:
                yield None
                continue
            seed = tensor.new_zeros(self._count, tensor.numel())
            last = first + tensor.numel()
            seed[first:last] = torch.eye(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
            yield seed.view(self._count, *tensor.shape)
            first = last

    def advance(self, number: int, carry: Leaves, x: Leaves) -> StepResult:
        """Run a step, and push the tangents through it."""
        loop = self._loop
        arguments = [*carry, *x, *loop.consts]
        template, inputs = template_of(arguments), tensors_of(arguments)
        x_tangents = [None if tangent is None else tangent[:, number] for tangent in self._xs]
        if loop.data is not None:
            x_tangents = [None] * loop.data.count
        tangents = [*self._carry, *x_tangents, *self._consts]
        moving = [position for position, tangent in enumerate(tangents) if tangent is not None]
        results: list[StepResult] = []

        def differentiable_outputs(
            *moved: torch.Tensor,
        ) -> tuple[tuple[torch.Tensor, ...], list[Any]]:
            replaced = list(inputs)
            for position, tensor in zip(moving, moved):
                replaced[position] = tensor
            with like_reverse_mode(hooks_in_gradients=True) if moved else nullcontext():
                new_carry, y, y_structure = call_step(loop, number, fill(template, replaced))
            results[:] = [StepResult(template_of(new_carry), template_of(y), y_structure)]
            outputs = tensors_of([*new_carry, *y])
            return tuple(filter(is_differentiable, outputs)), outputs

        def jvp(*directions: torch.Tensor) -> Any:
            primals = tuple(inputs[position] for position in moving)
            result: Any = torch.func.jvp(differentiable_outputs, primals, directions, has_aux=True)
            return result[1:]

        with torch.enable_grad():
            if moving:
                out_dims: Any = (0, None)
                stacked = torch.func.vmap(jvp, out_dims=out_dims, randomness='same')
                pushed, outputs = stacked(*(tangent for tangent in tangents if tangent is not None))
            else:
                with tangents_recorded():
                    pushed, (_, outputs) = (), differentiable_outputs()
        place = f'step {loop.first + number}'
        require_no_tangents(loop.step, outputs, place=place)
        if not loop.constant:
            require_no_captures(loop.step, outputs, inputs, place=place)
        found = iter([tangent.detach() for tangent in pushed])
        new_tangents = [
            next(found, None) if is_differentiable(output) else None for output in outputs
        ]
        result = results[0]
        supply = iter([output.detach() for output in outputs])
        new_carry, y = fill(result.carry, supply), fill(result.y, supply)
        boundary = len(tensors_of(new_carry))
        self._carry = new_tangents[:boundary]
        self._ys.append(new_tangents[boundary:])
        return StepResult(new_carry, y, result.y_structure)

    def of_outputs(self) -> list[torch.Tensor | None]:
        """Return the tangents of the last carry and of the stacked ``ys``; None is zero."""
        ys = [
            None
            if column[0] is None
            else torch.stack([tangent for tangent in column if tangent is not None], 1)
            for column in zip(*self._ys)
        ]
        return [*self._carry, *ys]
