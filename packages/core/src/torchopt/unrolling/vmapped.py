"""Unrolls under ``torch.vmap``: the loop of a step that is mapped itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from torchopt import pytree
from torchopt.unrolling.leaves import fill, flatten, frame_of, is_hole, tensors_of
from torchopt.unrolling.loop import Loop, Step, hollow, tensor_inputs, with_inputs


def run_mapped(run: Callable[[Loop], tuple[Any, Any]], loop: Loop) -> tuple[Any, Any]:
    """Let ``run`` run the loop of mapped steps, below the ``torch.vmap`` that is active.

    What is saved for the backward pass is then out of ``vmap``'s sight, as autograd is anyway.

    Raises:
        RuntimeError: the number of steps depends on the carry, or nothing is mapped over.
    """
    if loop.until is not None:
        raise RuntimeError(
            'unroll(..., until=...) cannot run under torch.vmap, where the condition has as many '
            'answers as there are examples: give a fixed number of steps'
        )
    call = _Call(run, hollow(loop)._replace(progress=loop.progress))
    apply: Any = _Mapped.apply
    outputs = iter(apply(call, *tensor_inputs(loop)))
    leaves, structure = flatten(call.result)
    filled: Any = pytree.tree_unflatten(structure, fill(frame_of(leaves), outputs))
    return tuple(filled)


@dataclass
class _Call:
    """What passes by ``vmap``, which takes trees apart but not this."""

    run: Callable[[Loop], tuple[Any, Any]]
    loop: Loop
    result: tuple[Any, Any] | None = None


class _Mapped(torch.autograd.Function):
    """A function of nothing but a rule for ``vmap``."""

    @staticmethod
    def forward(*args: Any) -> Any:
        raise RuntimeError(
            'unroll is called under torch.vmap, which maps over none of its arguments: call it '
            'outside, or use backward=Stored()'
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Do nothing; without this method there can be no rule for ``vmap``."""

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any,
        in_dims: tuple[int | None, ...],
        call: _Call,
        *inputs: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        loop = call.loop
        of_carry = sum(map(is_hole, loop.carry))
        of_xs = sum(map(is_hole, loop.xs))
        tensors: list[torch.Tensor] = []
        dims: list[int | None] = []
        for position, (tensor, dim) in enumerate(zip(inputs, in_dims[1:])):
            if position < of_carry:
                # Mapped at the start, too: the steps return it so.
                tensor = (
                    tensor.expand(info.batch_size, *tensor.shape)
                    if dim is None
                    else tensor.movedim(dim, 0)
                )
                dim = 0
            elif position < of_carry + of_xs and dim is not None:
                # Behind the dimension of the steps, which their slices do not have.
                tensor, dim = tensor.movedim(dim, 1), 0
            tensors.append(tensor)
            dims.append(dim)
        mapped = with_inputs(loop, tensors)
        mapped = mapped._replace(step=_mapped_step(loop.step, dims, info.randomness))
        call.result = carry, ys = call.run(mapped)
        ends, paths = tensors_of(flatten(carry)[0]), tensors_of(flatten(ys)[0])
        return (*ends, *paths), (*[0] * len(ends), *[1] * len(paths))


def _mapped_step(step: Step, dims: list[int | None], randomness: str) -> Step:
    """Return ``step`` mapped over ``dims`` of the tensors in its arguments."""

    def mapped_step(*trees: Any) -> Any:
        leaves, structure = flatten(trees)
        frame = frame_of(leaves)
        results: list[Any] = []

        def of_one(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            args: Any = pytree.tree_unflatten(structure, fill(frame, tensors))
            results.append(flatten(step(*args)))
            return tuple(tensors_of(results[0][0]))

        outputs = torch.vmap(of_one, tuple(dims), randomness=randomness)(*tensors_of(leaves))
        of_result, structure_of_result = results[0]
        result: Any = pytree.tree_unflatten(structure_of_result, fill(frame_of(of_result), outputs))
        return result

    return mapped_step
