"""The node of a block in autograd's graph, which saves the block's inputs and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from torchopt.authoring.torch_internals import (
    in_dual_level,
    is_mapped_by_autograd,
    transforming,
)
from torchopt.unrolling.context.forward_grad import below_transforms
from torchopt.unrolling.leaves import is_differentiable
from torchopt.unrolling.rematerialized.block import Block
from torchopt.unrolling.rematerialized.derivatives import (
    FlatFunction,
    Jvp,
    Results,
    Vjp,
    Vmapped,
    innermost,
)


def rematerialized(fn: FlatFunction[Block], *tensors: torch.Tensor) -> Results:
    """Return ``fn(*tensors)``, as one node of the graph.

    The node saves ``tensors``. Its derivatives are such nodes again: they compute ``fn`` anew, and
    save their own inputs. So no derivative of any order keeps what is computed inside of ``fn``.
    """
    apply: Any = _Rematerialized.apply
    results: Results = apply(fn, *tensors)
    return results


class _Rematerialized(torch.autograd.Function):
    @staticmethod
    def forward(fn: FlatFunction[Block], *tensors: torch.Tensor) -> Results:
        # Below every transform of torch.func: these are plain tensors.
        # But is_grads_batched=True maps by other means, which know no detach.
        plain = [tensor if is_mapped_by_autograd(tensor) else tensor.detach() for tensor in tensors]
        with below_transforms():
            return fn.root.run(fn, plain)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
        fn, *tensors = inputs
        ctx.fn = fn
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        if in_dual_level():
            ctx.save_for_forward(*tensors)
        block: Block = fn.root
        constant: list[int] = []
        if block is innermost(fn):
            ctx.unused_inputs = block.unused_inputs
            ctx.constant_results = constant = block.constant_results
            ctx.mark_non_differentiable(*(output[position] for position in constant))
        if block.is_compiled:
            ctx.kinds = [
                None if position in constant else _kind(result)
                for position, result in enumerate(output)
            ]

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        block: Block = ctx.fn.root
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        unused = getattr(ctx, 'unused_inputs', ())
        wanted = tuple(
            position not in unused
            and (need or block.is_always_wanted(position - len(tensors), tensor))
            for position, (need, tensor) in enumerate(zip(needed, tensors))
        )
        if not any(needed) or all(cotangent is None for cotangent in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        if block.is_compiled:
            cotangents = tuple(map(_zeros_unless_given, cotangents, ctx.kinds))
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        fn = Vjp(ctx.fn, tuple(cotangent is not None for cotangent in cotangents), wanted)
        found = iter(rematerialized(fn, *given, *tensors))
        return None, *(next(found) if want else None for want in wanted)

    @staticmethod
    def jvp(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, _: None, *tangents: torch.Tensor | None
    ) -> Results:
        given = [tangent for tangent in tangents if tangent is not None]
        moving = tuple(tangent is not None for tangent in tangents)
        fn = Jvp(ctx.fn, moving, dual=not transforming(), mode=ctx.fn.root.mode)
        found = rematerialized(fn, *given, *ctx.saved_tensors)
        constant = getattr(ctx, 'constant_results', ())
        return tuple(
            None if position in constant else tangent for position, tangent in enumerate(found)
        )

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[int | None, ...], fn: FlatFunction[Block], *tensors: torch.Tensor
    ) -> tuple[Results, tuple[int | None, ...]]:
        mapped = Vmapped(fn, tuple(in_dims[1:]), info.randomness)
        results = rematerialized(mapped, *tensors)
        return results, tuple(None if result is None else 0 for result in results)


def _kind(result: torch.Tensor | None) -> tuple[Any, ...] | None:
    if result is None or not is_differentiable(result):
        return None
    return result.shape, result.dtype, result.device


def _zeros_unless_given(
    cotangent: torch.Tensor | None, kind: tuple[Any, ...] | None
) -> torch.Tensor | None:
    """Return a cotangent for every result, because every choice of them is another graph."""
    if cotangent is not None or kind is None:
        return cotangent
    shape, dtype, device = kind
    return torch.zeros(shape, dtype=dtype, device=device)
