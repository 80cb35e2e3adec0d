"""The differentiable step: fused to first order in reverse mode, core's rule beyond.

:class:`Forward` runs the forward kernel (:class:`TransformedForward` under torch.func). Its
derivative :class:`Backward` runs the backward kernel, whose derivative is core's rule,
differentiated by autograd. All save nothing but their inputs: over an unrolled path the states of
one step are the results of the step before, so a step holds its gradients and its new states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt.authoring.torch_internals import transforming
from torchopt_accel import kernels, operators, reference
from torchopt_accel.batching import Batch
from torchopt_accel.internals import apply_plainly, dispatching, forward_mode, old_vmap
from torchopt_accel.roles import Call, Tensors
from torchopt_accel.scalars import Maybe, Scalars

Outputs = tuple[torch.Tensor, ...]
_SCALARS = len(Scalars._fields)
_CONSTANT = (
    'the numbers that a state has for each parameter are constants in kernels: to differentiate '
    'with respect to them, make the optimizer without use_accelerated_op'
)


def step(call: Call, scalars: Scalars, tensors: Tensors, *, plain: bool = False) -> Tensors:
    """Return updates, then new states role after role, differentiable to any order.

    Args:
        call: The step's numbers and the layout of ``tensors``.
        scalars: The step's scalars. The numbers among them are constants in reverse mode.
        tensors: Gradients, parameters if weights decay, and states, role after role.
        plain: Whether ``C.takes`` takes them and the learning rate, and no transform is active.
    """
    if forward_mode():
        return reference.forward(call, scalars, tensors)
    transformed = not plain and transforming()
    if not transformed and not _differentiated(scalars.lr, *tensors):
        return operators.forward(call, scalars, tensors)
    apply: Any = _apply_forward if plain else (TransformedForward if transformed else Forward).apply
    outputs: Outputs = apply(call, *scalars, *tensors)
    return outputs


class Forward(torch.autograd.Function):
    """The forward kernel; ``apply(call, *scalars, *tensors)``."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, lr: Maybe, steps: Maybe, numbers: Maybe, *tensors: torch.Tensor
    ) -> Outputs:
        """Run the forward kernel and save its inputs."""
        _save(ctx, call, lr, steps, numbers, *tensors)
        return tuple(operators.forward(call, Scalars(lr, steps, numbers), tensors))

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Any, ...]:
        """Run the backward kernel if only the first derivative is needed."""
        call: Call = ctx.call
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        scalars, tensors = Scalars(saved[0], saved[1], saved[2]), saved[_SCALARS:]
        lr_wanted, needs = needed[1], needed[1 + _SCALARS :]
        if needed[_SCALARS]:
            raise RuntimeError(_CONSTANT)
        by_rule = forward_mode() or old_vmap()
        recorded = transforming() or torch.is_grad_enabled()
        if not by_rule and not recorded and not dispatching():
            found = kernels.backward_at_once(
                call.of_rule, scalars, cotangents, tensors, needs, lr_wanted
            )
            if found is not None:
                lr_grad, *grads = found
                return (None, lr_grad, None, None, *grads)
        # A parameter that is used as an embedding may have a sparse cotangent.
        cotangents = tuple(c if c is None or _is_dense(c) else c.to_dense() for c in cotangents)
        wanted = call.wanted(needs, lr_wanted)
        results: Sequence[Maybe]
        if by_rule:
            results = reference.pullback(call, wanted, scalars, cotangents, tensors)
        elif recorded:
            results = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, *scalars, *cotangents, *tensors
            )
        else:
            results = operators.backward(call, wanted, scalars, cotangents, tensors)
        grads, lr_grad = call.spread(results, wanted)
        return (None, lr_grad, None, None, *grads)


_apply_forward = apply_plainly(Forward)


class TransformedForward(Forward):
    """The same for torch.func, which needs ``setup_context``.

    Elsewhere ``setup_context`` would cost a small step a tenth of its time: torch binds the
    arguments by name.
    """

    @staticmethod
    def forward(call: Call, *given: Any) -> Outputs:  # type: ignore[override]
        """Run the forward kernel."""
        return tuple(operators.forward(call, Scalars(*given[:_SCALARS]), given[_SCALARS:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        """Save the inputs."""
        _save(ctx, *inputs)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], call: Call, *given: Any
    ) -> tuple[Outputs, tuple[int, ...]]:
        """Run the kernel over all elements of the batch at once."""
        scalars, tensors = Scalars(*given[:_SCALARS]), given[_SCALARS:]
        scalar_dims, dims = in_dims[1 : 1 + _SCALARS], in_dims[1 + _SCALARS :]
        batch = Batch(call, info.batch_size)
        outputs: Any
        if all(dim is None for dim in scalar_dims):
            outputs = TransformedForward.apply(  # type: ignore[no-untyped-call]
                call, *scalars, *batch.to_front(tensors, dims)
            )
        else:
            flat_call, flat_scalars = batch.unbind_scalars(scalars, scalar_dims)
            results: Any = TransformedForward.apply(  # type: ignore[no-untyped-call]
                flat_call, *flat_scalars, *batch.unbind(tensors, dims)
            )
            outputs = batch.stack(results)
        return outputs, (0,) * len(outputs)


class Backward(torch.autograd.Function):
    """The backward kernel; ``apply(call, wanted, *scalars, *cotangents, *tensors)``."""

    @staticmethod
    def forward(call: Call, wanted: Sequence[bool], *given: Any) -> Outputs:
        """Run the backward kernel."""
        cotangents, tensors = call.separate(given[_SCALARS:])
        scalars = Scalars(*given[:_SCALARS])
        return tuple(operators.backward(call, wanted, scalars, cotangents, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        """Save the inputs."""
        call, ctx.wanted, *tensors = inputs
        _save(ctx, call, *tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Maybe) -> tuple[Any, ...]:
        """Differentiate core's rule twice."""
        saved = ctx.saved_tensors
        lr_grad, grads = reference.pullback_of_pullback(
            ctx.call, ctx.wanted, Scalars(*saved[:_SCALARS]), saved[_SCALARS:], seconds
        )
        return (None, None, lr_grad, None, None, *grads)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any,
        in_dims: tuple[Any, ...],
        call: Call,
        wanted: Sequence[bool],
        *given: Any,
    ) -> tuple[Outputs, tuple[int, ...]]:
        """Run the kernel over all elements of the batch at once."""
        scalars, tensors = Scalars(*given[:_SCALARS]), given[_SCALARS:]
        scalar_dims, dims = in_dims[2 : 2 + _SCALARS], in_dims[2 + _SCALARS :]
        batch = Batch(call, info.batch_size)
        outputs: Any
        if all(dim is None for dim in scalar_dims) and not wanted[-1]:
            outputs = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, *scalars, *batch.to_front(tensors, dims)
            )
        else:
            flat_call, flat_scalars = batch.unbind_scalars(scalars, scalar_dims)
            results: Any = Backward.apply(  # type: ignore[no-untyped-call]
                flat_call, wanted, *flat_scalars, *batch.unbind(tensors, dims)
            )
            if wanted[-1] and scalars.lr is not None:
                *results, lr_grad = results
                per_leaf = scalars.lr.dim() - (scalar_dims[0] is not None) == 1
                outputs = (*batch.stack(results), batch.lr_grad(lr_grad, per_leaf))
            else:
                outputs = batch.stack(results)
        return outputs, (0,) * len(outputs)


def _save(ctx: Any, call: Call, *tensors: Maybe) -> None:
    ctx.call = call
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def _differentiated(*tensors: Maybe) -> bool:
    return torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in tensors if tensor is not None
    )
