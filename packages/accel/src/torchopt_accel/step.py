"""The differentiable step: fused to first order in reverse mode, core's rule beyond.

``Forward`` runs the forward kernel (``TransformedForward`` does under torch.func), its derivative
``Backward`` the backward kernel, and the derivative of that is core's rule, differentiated by
autograd. All save nothing but their inputs:
over an unrolled path a step's states are the last step's results, so that a step holds its
gradients and its new states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchopt_accel import composite, ops
from torchopt_accel.batching import Batch
from torchopt_accel.call import Call
from torchopt_accel.internals import forward_mode, old_vmap, transforming

Maybe = torch.Tensor | None
Outputs = tuple[torch.Tensor, ...]


def step(
    call: Call, lr: Maybe, steps: Maybe, tensors: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    """Return updates, then new states role after role, differentiable to any order.

    Args:
        call: The step's numbers and the layout of ``tensors``.
        lr: The learning rate if it is a tensor, of 0 dimensions or with one entry for each leaf.
        steps: Step counts after this step, for the kernels that need them.
        tensors: Gradients, parameters if weights decay, and states, role after role.
    """
    if forward_mode():
        return composite.forward(call, lr, steps, tensors)
    function: Any = TransformedForward if transforming() else Forward
    if function is TransformedForward or _differentiated(lr, *tensors):
        outputs: Outputs = function.apply(call, lr, steps, *tensors)
        return outputs
    return _forward(call, lr, steps, tensors)


class Forward(torch.autograd.Function):
    """The forward kernel; ``apply(call, lr, steps, *tensors)``."""

    @staticmethod
    def forward(ctx: Any, call: Call, lr: Maybe, steps: Maybe, *tensors: torch.Tensor) -> Outputs:
        """Run the forward kernel and save its inputs."""
        _save(ctx, call, lr, steps, *tensors)
        return tuple(_forward(call, lr, steps, tensors))

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Any, ...]:
        """Run the backward kernel where nothing asks for more than the first derivative."""
        call: Call = ctx.call
        lr, steps, *tensors = ctx.saved_tensors
        _, needs_lr, _, *needs = ctx.needs_input_grad
        wanted = [*map(any, call.roles(needs)), needs_lr]
        results: Sequence[Maybe]
        if forward_mode() or old_vmap():
            results = composite.pullback(call, wanted, lr, steps, cotangents, tensors)
        elif transforming() or torch.is_grad_enabled():
            results = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, lr, steps, *cotangents, *tensors
            )
        else:
            results = _backward(call, wanted, lr, steps, cotangents, tensors)
        grads, lr_grad = _spread(call, wanted, results)
        return (None, lr_grad, None, *grads)


class TransformedForward(Forward):
    """The same for torch.func, which wants the context apart.

    Elsewhere that would cost a small step a tenth of its time: torch binds the arguments by name.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        call: Call, lr: Maybe, steps: Maybe, *tensors: torch.Tensor
    ) -> Outputs:
        """Run the forward kernel."""
        return tuple(_forward(call, lr, steps, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        """Save the inputs."""
        _save(ctx, *inputs)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], call: Call, lr: Maybe, steps: Maybe, *tensors: Any
    ) -> tuple[Outputs, tuple[int, ...]]:
        """Run the kernel over all elements of the batch at once."""
        _, lr_dim, steps_dim, *dims = in_dims
        batch = Batch(call, info.batch_size)
        if lr_dim is None and steps_dim is None:
            outputs = TransformedForward.apply(  # type: ignore[no-untyped-call]
                call, lr, steps, *batch.to_front(tensors, dims)
            )
        else:
            flat = batch.unbind(tensors, dims)
            lr, steps = batch.rates(lr, lr_dim), batch.counts(steps, steps_dim)
            outputs = batch.stack(
                TransformedForward.apply(  # type: ignore[no-untyped-call]
                    batch.flat_call(steps_dim), lr, steps, *flat
                )
            )
        return outputs, (0,) * len(outputs)


class Backward(torch.autograd.Function):
    """The backward kernel; ``apply(call, wanted, lr, steps, *cotangents, *tensors)``."""

    @staticmethod
    def forward(
        call: Call, wanted: Sequence[bool], lr: Maybe, steps: Maybe, *given: Any
    ) -> Outputs:
        """Run the backward kernel."""
        count = _outputs(call)
        return tuple(_backward(call, wanted, lr, steps, given[:count], given[count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        """Save the inputs."""
        call, ctx.wanted, *tensors = inputs
        _save(ctx, call, *tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Maybe) -> tuple[Any, ...]:
        """Differentiate core's rule twice."""
        lr, steps, *given = ctx.saved_tensors
        count = _outputs(ctx.call)
        lr_grad, cotangent_grads, grads = composite.pullback_of_pullback(
            ctx.call, ctx.wanted, lr, steps, given[:count], given[count:], seconds
        )
        return (None, None, lr_grad, None, *cotangent_grads, *grads)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any,
        in_dims: tuple[Any, ...],
        call: Call,
        wanted: Sequence[bool],
        lr: Maybe,
        steps: Maybe,
        *given: Any,
    ) -> tuple[Outputs, tuple[int, ...]]:
        """Run the kernel over all elements of the batch at once."""
        _, _, lr_dim, steps_dim, *dims = in_dims
        batch = Batch(call, info.batch_size)
        if lr_dim is None and steps_dim is None and not wanted[-1]:
            outputs = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, lr, steps, *batch.to_front(given, dims)
            )
        else:
            flat = batch.unbind(given, dims)
            rates, counts = batch.rates(lr, lr_dim), batch.counts(steps, steps_dim)
            results = Backward.apply(  # type: ignore[no-untyped-call]
                batch.flat_call(steps_dim), wanted, rates, counts, *flat
            )
            if wanted[-1] and lr is not None:
                *results, lr_grad = results
                per_leaf = lr.dim() - (lr_dim is not None) == 1
                outputs = (*batch.stack(results), batch.lr_grad(lr_grad, per_leaf))
            else:
                outputs = batch.stack(results)
        return outputs, (0,) * len(outputs)


def _save(ctx: Any, call: Call, *tensors: Maybe) -> None:
    ctx.call = call
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _forward(
    call: Call, lr: Maybe, steps: Maybe, tensors: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    grads, params, states = _sections(call, tensors)
    plan = call.plan
    outputs: Sequence[torch.Tensor] = ops.FORWARD[plan.kernel.rule](
        grads, params, states, steps, call.positions, lr, plan.hyper
    )
    return outputs


def _backward(
    call: Call,
    wanted: Sequence[bool],
    lr: Maybe,
    steps: Maybe,
    cotangents: Sequence[Maybe],
    tensors: Sequence[torch.Tensor],
) -> Sequence[torch.Tensor]:
    grads, params, states = _sections(call, tensors)
    plan = call.plan
    outputs: Sequence[torch.Tensor] = ops.BACKWARD[plan.kernel.rule](
        cotangents, grads, params, states, steps, call.positions, lr, plan.hyper, wanted
    )
    return outputs


def _sections(
    call: Call, tensors: Sequence[torch.Tensor]
) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    count = call.count
    start = count * (1 + call.plan.decays)
    return tensors[:count], tensors[count:start], tensors[start:]


def _outputs(call: Call) -> int:
    return call.count * (1 + len(call.plan.kernel.columns))


def _spread(
    call: Call, wanted: Sequence[bool], results: Sequence[Maybe]
) -> tuple[list[Maybe], Maybe]:
    """Put results at the places of the inputs, with None for those not wanted."""
    *roles, want_lr = wanted
    if not call.plan.decays:
        del roles[1]
    grads: list[Maybe] = []
    used = 0
    for want in roles:
        if want:
            grads += results[used : used + call.count]
            used += call.count
        else:
            grads += [None] * call.count
    return grads, results[used] if want_lr else None


def _differentiated(*tensors: Maybe) -> bool:
    return torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in tensors if tensor is not None
    )
