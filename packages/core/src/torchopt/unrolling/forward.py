"""Forward mode: the derivatives travel with the carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torchopt import pytree
from torchopt.unrolling.closures import require_no_captures
from torchopt.unrolling.leaves import Leaves, fill, frame_of, is_differentiable, tensors_of
from torchopt.unrolling.loop import Loop, Sweep, hollow, rows_of, sweep, tensor_inputs, with_inputs
from torchopt.unrolling.strategy import Strategy


@dataclass(frozen=True)
class ForwardMode(Strategy):
    r"""Carry the derivative by every meta-parameter along, step by step.

    With a carry :math:`c` and meta-parameters :math:`\phi` (the elements of all tensors that
    require grad, in the initial carry, xs and consts), every step computes
    :math:`\partial c_{i+1} / \partial \phi` from :math:`\partial c_i / \partial \phi`.
    Memory: as many tangents like the carry as there are meta-parameters, whatever the number of
    steps. Time: about as many evaluations of a step. The forward-mode hypergradient of
    Franceschi et al., *Forward and Reverse Gradient-Based Hyperparameter Optimization*, ICML 2017.

    Attributes:
        limit: Largest number of meta-parameters that is accepted.

    Raises:
        ValueError: more elements than ``limit`` require grad, or one of them is complex.
    """

    limit: int = 64

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Run ``loop``; return the trees ``(carry, ys)``."""
        inputs = tensor_inputs(loop)
        self._require_few([tensor for tensor in inputs if tensor.requires_grad])
        result: list[Sweep] = []
        apply: Any = _Carried.apply
        supply = iter(apply(hollow(loop), loop, result, *inputs))
        carry, ys = (fill(part, supply) for part in (result[0].carry, result[0].ys))
        return result[0]._replace(carry=carry, ys=ys).unflatten(loop)

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
                'forward mode takes derivatives by real tensors only, not complex ones'
            )


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hollow_loop: Loop, loop: Loop, result: list[Sweep], *inputs: torch.Tensor
    ) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        # Tangents cannot be laid out like an expanded tensor.
        detached = [
            tensor.detach().contiguous() if need else tensor.detach()
            for tensor, need in zip(inputs, needed)
        ]
        loop = with_inputs(hollow_loop, detached)._replace(until=loop.until, progress=loop.progress)
        tangents = _Tangents(loop, needed)
        final = sweep(loop, tangents.advance)
        result.append(final._replace(carry=frame_of(final.carry), ys=frame_of(final.ys)))
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
            # The real part of a complex product, since what is differentiated by is real.
            part = torch.real(tangent.reshape(len(tangent), -1).conj() @ cotangent.reshape(-1))
            total = part if total is None else total + part
        return None, None, None, *_parted(total, ctx.kinds)


def _parted(
    total: torch.Tensor | None, kinds: list[tuple[torch.Size, torch.dtype] | None]
) -> Iterator[torch.Tensor | None]:
    first = 0
    for kind in kinds:
        if kind is None or total is None:
            yield None
        else:
            shape, dtype = kind
            yield total[first : first + shape.numel()].view(shape).to(dtype)
            first += shape.numel()


class _Tangents:
    """Derivatives by all elements that are differentiated by, which are a leading dimension."""

    def __init__(self, loop: Loop, needed: tuple[bool, ...]) -> None:
        self._loop = loop
        self._x = rows_of(loop.xs)
        inputs = tensor_inputs(loop)
        self._count = sum(tensor.numel() for tensor, need in zip(inputs, needed) if need)
        seeds = iter(self._seeds(inputs, needed))
        self._of_carry: list[torch.Tensor | None]
        self._of_carry, self._of_xs, self._of_consts = (
            [next(seeds) for _ in tensors_of(part)] for part in (loop.carry, loop.xs, loop.consts)
        )
        self._of_ys: list[list[torch.Tensor | None]] = []

    def _seeds(
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

    def advance(self, number: int, carry: Leaves) -> tuple[Leaves, Leaves, pytree.PyTreeSpec]:
        """Run a step and the derivative of it."""
        loop = self._loop
        parts = (carry, self._x(number), loop.consts)
        frames = [frame_of(part) for part in parts]
        tensors = [tensor for part in parts for tensor in tensors_of(part)]
        x_bars = [None if bar is None else bar[:, number] for bar in self._of_xs]
        tangents = [*self._of_carry, *x_bars, *self._of_consts]
        moving = [position for position, bar in enumerate(tangents) if bar is not None]
        results: list[tuple[Leaves, Leaves, pytree.PyTreeSpec]] = []

        def smooth_outputs(*moved: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[Any]]:
            replaced = list(tensors)
            for position, tensor in zip(moving, moved):
                replaced[position] = tensor
            supply = iter(replaced)
            new_carry, y, structure = loop.run_step(
                number, *(fill(frame, supply) for frame in frames)
            )
            results[:] = [(frame_of(new_carry), frame_of(y), structure)]
            outputs = tensors_of([*new_carry, *y])
            return tuple(filter(is_differentiable, outputs)), outputs

        def derivative(*directions: torch.Tensor) -> Any:
            primals = tuple(tensors[position] for position in moving)
            result: Any = torch.func.jvp(smooth_outputs, primals, directions, has_aux=True)
            return result[1:]

        with torch.enable_grad():
            if moving:
                out_dims: Any = (0, None)
                batched = torch.func.vmap(derivative, out_dims=out_dims, randomness='same')
                slopes, outputs = batched(*(bar for bar in tangents if bar is not None))
            else:
                slopes, (_, outputs) = (), smooth_outputs()
        if not loop.constant:
            require_no_captures(loop.step, outputs, tensors, place=loop.called(number))
        found = iter([slope.detach() for slope in slopes])
        bars = [next(found, None) if is_differentiable(output) else None for output in outputs]
        frame_carry, frame_y, structure = results[0]
        supply = iter([output.detach() for output in outputs])
        new_carry, y = fill(frame_carry, supply), fill(frame_y, supply)
        boundary = len(tensors_of(new_carry))
        self._of_carry = bars[:boundary]
        self._of_ys.append(bars[boundary:])
        return new_carry, y, structure

    def of_outputs(self) -> list[torch.Tensor | None]:
        """Return the tangents of the last carry and of the stacked ``ys``; None is zero."""
        of_ys = [
            None
            if column[0] is None
            else torch.stack([bar for bar in column if bar is not None], 1)
            for column in zip(*self._of_ys)
        ]
        return [*self._of_carry, *of_ys]
