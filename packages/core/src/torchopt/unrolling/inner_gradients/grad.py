"""``grad`` and ``grad_and_value`` for use in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchopt.authoring.torch_internals import active_transform
from torchopt.unrolling.inner_gradients.by_autograd import grad_and_value_of
from torchopt.unrolling.inner_gradients.cache import active, inside_gradient, rebuilt
from torchopt.unrolling.inner_gradients.gradient_vjp import InnerGradient


def grad_and_value(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return :func:`torch.func.grad_and_value` of ``fn``, for use in a step of ``unroll``.

    The results are the same, but ``Recomputed(keep_gradients=True)`` can keep them, and then
    differentiates the step in two parts. It does not keep them where the step calls this function
    under ``torch.vmap`` or another transform. ``scaled_dot_product_attention`` consists of
    differentiable operations in ``fn``, because the fused kernels have no second derivative.

    Args:
        fn: Returns a scalar, or with ``has_aux`` a pair of a scalar and a tree.
        argnums: Position, or positions, of the arguments to differentiate by.
        has_aux: Whether ``fn`` returns that pair.

    Returns:
        Function that returns ``(gradient, value)``, or ``(gradient, (value, aux))``.

    Example:
        >>> import torch
        >>> from torchopt import unrolling
        >>> unrolling.grad_and_value(torch.square)(torch.tensor(3.0))
        (tensor(6.), tensor(9.))
    """

    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        cache = active.cache
        # Results under a transform of the step cannot be used outside of the transform.
        if cache is None or active_transform() != 'none':
            with inside_gradient():
                return grad_and_value_of(fn, argnums, has_aux, args, kwargs)
        return cache.gradient(*InnerGradient.of(fn, argnums, has_aux, args, kwargs))

    return gradient_and_value


def grad_and_value_of_part(
    fn: Callable[..., Any], modules: list[nn.Module], *, is_last: bool
) -> Callable[..., Any]:
    """Return ``grad_and_value(fn, has_aux=True)`` for a part of a step whose graph must not add up.

    Where the step is differentiated at once, as in the backward pass of a loop that runs steps
    again, the graph is built when its turn comes, and freed before the next part's. The last part
    has the first turn, and builds it now. Everywhere else all graphs are kept.

    Args:
        fn: Returns a pair of a scalar and a tree.
        modules: What ``fn`` uses; a part may find other attributes than the step did.
        is_last: Whether the step has no further part.
    """
    with_graph = grad_and_value(fn, has_aux=True)

    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        cache = active.cache
        if (cache is None and not active.is_differentiated) or active_transform() != 'none':
            return with_graph(*args, **kwargs)
        gradient, tensors = InnerGradient.of(fn, 0, True, args, kwargs)
        if cache is not None:
            return cache.gradient_of_part(gradient, tensors, modules)
        if is_last or not any(tensor.requires_grad for tensor in tensors):
            return with_graph(*args, **kwargs)
        return rebuilt(gradient, tensors, modules)

    return gradient_and_value


def total_over_parts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what was computed from the gradients of all parts, from the cache if it is kept."""
    cache = active.cache
    if cache is None or active_transform() != 'none':
        return tensors
    return dict(zip(tensors, cache.total(list(tensors.values()))))


def grad(
    fn: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return :func:`torch.func.grad` of ``fn``, for use in a step; see :func:`grad_and_value`.

    Returns:
        Function that returns the gradient, or ``(gradient, aux)``.

    Example:
        >>> import torch
        >>> from torchopt import unrolling
        >>> unrolling.grad(torch.square)(torch.tensor(3.0))
        tensor(6.)
    """
    with_value = grad_and_value(fn, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        result, value = with_value(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient
