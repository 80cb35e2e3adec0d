"""Loops under ``torch.vmap``: the step is mapped, and the loop runs below the transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from torchopt import pytree
from torchopt.unrolling.inner_gradients.normalization import separate_affine
from torchopt.unrolling.leaves import fill, flatten, is_placeholder, template_of, tensors_of
from torchopt.unrolling.loop import Loop, Step


def run_mapped(run: Callable[[Loop], tuple[Any, Any]], loop: Loop) -> tuple[Any, Any]:
    """Let ``run`` run the loop of mapped steps, below the active ``torch.vmap``.

    Below the transform, the backward pass can be an autograd node that ``vmap`` does not see.

    Raises:
        RuntimeError: the number of steps depends on the carry, or nothing is mapped over.
    """
    if loop.until is not None:
        raise RuntimeError(
            'unroll(..., until=...) cannot run under torch.vmap, where the condition has as many '
            'answers as there are examples: give a fixed number of steps'
        )
    opaque = _Opaque(run, loop.template()._replace(progress=loop.progress))
    apply: Any = _Mapped.apply
    outputs = iter(apply(opaque, *loop.tensors()))
    leaves, structure = flatten(opaque.result)
    filled: Any = pytree.tree_unflatten(structure, fill(template_of(leaves), outputs))
    return tuple(filled)


@dataclass
class _Opaque:
    """What ``vmap`` must not look into: it would take trees apart, but not this."""

    run: Callable[[Loop], tuple[Any, Any]]
    template: Loop
    result: tuple[Any, Any] | None = None


class _Mapped(torch.autograd.Function):
    """A function that has a rule for ``vmap``, and nothing else."""

    @staticmethod
    def forward(*args: Any) -> Any:
        raise RuntimeError(
            'unroll is called under torch.vmap, which maps over none of its arguments: call it '
            'outside, or use backward=Stored()'
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Do nothing; torch requires this method beside a rule for ``vmap``."""

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any,
        in_dims: tuple[int | None, ...],
        opaque: _Opaque,
        *inputs: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        template = opaque.template
        carry_end = sum(map(is_placeholder, template.carry))
        xs_end = carry_end + sum(map(is_placeholder, template.xs))
        tensors: list[torch.Tensor] = []
        dims: list[int | None] = []
        for position, (tensor, dim) in enumerate(zip(inputs, in_dims[1:])):
            if position < carry_end:
                # The initial carry is always mapped, because the steps return a mapped carry.
                tensor = (
                    tensor.expand(info.batch_size, *tensor.shape)
                    if dim is None
                    else tensor.movedim(dim, 0)
                )
                dim = 0
            elif position < xs_end and dim is not None:
                # Behind the dimension of the steps, which the slices do not have.
                tensor, dim = tensor.movedim(dim, 1), 0
            tensors.append(tensor)
            dims.append(dim)
        mapped = template.filled(tensors)
        if template.data is not None:
            # Data by number are the same for all examples.
            dims[carry_end:carry_end] = [None] * template.data.count
        mapped = mapped._replace(step=_mapped_step(template.step, dims, info.randomness))
        opaque.result = carry, ys = opaque.run(mapped)
        carry_tensors, ys_tensors = tensors_of(flatten(carry)[0]), tensors_of(flatten(ys)[0])
        out_dims = (*[0] * len(carry_tensors), *[1] * len(ys_tensors))
        return (*carry_tensors, *ys_tensors), out_dims


def _mapped_step(step: Step, dims: list[int | None], randomness: str) -> Step:
    """Return ``step`` mapped over ``dims`` of the tensors in its arguments."""

    def mapped_step(*arguments: Any) -> Any:
        leaves, structure = flatten(arguments)
        template = template_of(leaves)
        results: list[Any] = []

        def one_example(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            args: Any = pytree.tree_unflatten(structure, fill(template, tensors))
            with separate_affine():
                results.append(flatten(step(*args)))
            return tuple(tensors_of(results[0][0]))

        outputs = torch.vmap(one_example, tuple(dims), randomness=randomness)(*tensors_of(leaves))
        result_leaves, result_structure = results[0]
        result: Any = pytree.tree_unflatten(
            result_structure, fill(template_of(result_leaves), outputs)
        )
        return result

    return mapped_step
