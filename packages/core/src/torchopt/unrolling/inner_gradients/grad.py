"""``grad`` and ``grad_and_value`` for use in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchopt.authoring.torch_internals import active_transform
from torchopt.unrolling.inner_gradients.by_autograd import grad_and_value_of
from torchopt.unrolling.inner_gradients.cache import active
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
            return grad_and_value_of(fn, argnums, has_aux, args, kwargs)
        return cache.gradient(*InnerGradient.of(fn, argnums, has_aux, args, kwargs))

    return gradient_and_value


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
