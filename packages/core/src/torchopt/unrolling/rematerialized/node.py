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
        if block is innermost(fn):
            ctx.unused_inputs = block.unused_inputs
            ctx.constant_results = constant = block.constant_results
            ctx.mark_non_differentiable(*(output[position] for position in constant))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        wanted = tuple(
            need and position not in getattr(ctx, 'unused_inputs', ())
            for position, need in enumerate(ctx.needs_input_grad[1:])
        )
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        if not given or not any(wanted):
            return (None,) * len(ctx.needs_input_grad)
        fn = Vjp(ctx.fn, tuple(cotangent is not None for cotangent in cotangents), wanted)
        found = iter(rematerialized(fn, *given, *ctx.saved_tensors))
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
