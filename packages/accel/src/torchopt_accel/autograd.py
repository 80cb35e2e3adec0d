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
from torchopt_accel.kernels import Maybe
from torchopt_accel.roles import Call, Tensors

Outputs = tuple[torch.Tensor, ...]


def step(call: Call, lr: Maybe, steps: Maybe, tensors: Tensors, *, plain: bool = False) -> Tensors:
    """Return updates, then new states role after role, differentiable to any order.

    Args:
        call: The step's numbers and the layout of ``tensors``.
        lr: The learning rate if it is a tensor: 0-dim, or one entry per leaf.
        steps: Step counts after this step, for the kernels that need them.
        tensors: Gradients, parameters if weights decay, and states, role after role.
        plain: Whether ``C.takes`` takes all of them, and no transform is active.
    """
    if forward_mode():
        return reference.forward(call, lr, steps, tensors)
    transformed = not plain and transforming()
    if not transformed and not _differentiated(lr, *tensors):
        return operators.forward(call, lr, steps, tensors)
    apply: Any = _apply_forward if plain else (TransformedForward if transformed else Forward).apply
    outputs: Outputs = apply(call, lr, steps, *tensors)
    return outputs


class Forward(torch.autograd.Function):
    """The forward kernel; ``apply(call, lr, steps, *tensors)``."""

    @staticmethod
    def forward(ctx: Any, call: Call, lr: Maybe, steps: Maybe, *tensors: torch.Tensor) -> Outputs:
        """Run the forward kernel and save its inputs."""
        _save(ctx, call, lr, steps, *tensors)
        return tuple(operators.forward(call, lr, steps, tensors))

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Any, ...]:
        """Run the backward kernel if only the first derivative is needed."""
        call: Call = ctx.call
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        lr, steps, tensors = saved[0], saved[1], saved[2:]
        lr_wanted, needs = needed[1], needed[3:]
        by_rule = forward_mode() or old_vmap()
        recorded = transforming() or torch.is_grad_enabled()
        if not by_rule and not recorded and not dispatching():
            found = kernels.backward_at_once(
                call.of_rule, lr, steps, cotangents, tensors, needs, lr_wanted
            )
            if found is not None:
                lr_grad, *grads = found
                return (None, lr_grad, None, *grads)
        # A parameter that is used as an embedding may have a sparse cotangent.
        cotangents = tuple(c if c is None or _is_dense(c) else c.to_dense() for c in cotangents)
        wanted = call.wanted(needs, lr_wanted)
        results: Sequence[Maybe]
        if by_rule:
            results = reference.pullback(call, wanted, lr, steps, cotangents, tensors)
        elif recorded:
            results = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, lr, steps, *cotangents, *tensors
            )
        else:
            results = operators.backward(call, wanted, lr, steps, cotangents, tensors)
        grads, lr_grad = call.spread(results, wanted)
        return (None, lr_grad, None, *grads)


_apply_forward = apply_plainly(Forward)


class TransformedForward(Forward):
    """The same for torch.func, which needs ``setup_context``.

    Elsewhere ``setup_context`` would cost a small step a tenth of its time: torch binds the
    arguments by name.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        call: Call, lr: Maybe, steps: Maybe, *tensors: torch.Tensor
    ) -> Outputs:
        """Run the forward kernel."""
        return tuple(operators.forward(call, lr, steps, tensors))

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
        outputs: Any
        if lr_dim is None and steps_dim is None:
            outputs = TransformedForward.apply(  # type: ignore[no-untyped-call]
                call, lr, steps, *batch.to_front(tensors, dims)
            )
        else:
            scalars = batch.unbind_scalars(lr, lr_dim, steps, steps_dim)
            flat = batch.unbind(tensors, dims)
            outputs = batch.stack(
                TransformedForward.apply(*scalars, *flat)  # type: ignore[no-untyped-call]
            )
        return outputs, (0,) * len(outputs)


class Backward(torch.autograd.Function):
    """The backward kernel; ``apply(call, wanted, lr, steps, *cotangents, *tensors)``."""

    @staticmethod
    def forward(
        call: Call, wanted: Sequence[bool], lr: Maybe, steps: Maybe, *given: Any
    ) -> Outputs:
        """Run the backward kernel."""
        cotangents, tensors = call.separate(given)
        return tuple(operators.backward(call, wanted, lr, steps, cotangents, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        """Save the inputs."""
        call, ctx.wanted, *tensors = inputs
        _save(ctx, call, *tensors)

    @staticmethod
    def backward(ctx: Any, *seconds: Maybe) -> tuple[Any, ...]:
        """Differentiate core's rule twice."""
        lr, steps, *given = ctx.saved_tensors
        lr_grad, grads = reference.pullback_of_pullback(
            ctx.call, ctx.wanted, lr, steps, given, seconds
        )
        return (None, None, lr_grad, None, *grads)

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
        outputs: Any
        if lr_dim is None and steps_dim is None and not wanted[-1]:
            outputs = Backward.apply(  # type: ignore[no-untyped-call]
                call, wanted, lr, steps, *batch.to_front(given, dims)
            )
        else:
            flat_call, rates, counts = batch.unbind_scalars(lr, lr_dim, steps, steps_dim)
            results: Any = Backward.apply(  # type: ignore[no-untyped-call]
                flat_call, wanted, rates, counts, *batch.unbind(given, dims)
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


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided


def _differentiated(*tensors: Maybe) -> bool:
    return torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in tensors if tensor is not None
    )
