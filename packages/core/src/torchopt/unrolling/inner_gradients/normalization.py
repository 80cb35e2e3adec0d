"""Normalization whose learned weights have right second derivatives under ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchopt.authoring.torch_internals import active_transforms


def separate_affine() -> AbstractContextManager[Any]:
    """Let normalizations in the block multiply by their weights in an operation of its own.

    Under ``torch.vmap``, torch computes the gradient by the weights of BatchNorm, LayerNorm and
    InstanceNorm from the saved mean and standard deviation, which are constants to a derivative
    from outside of the vmap: that derivative is silently wrong (2.4 to 2.14).
    """
    if torch.compiler.is_compiling():
        return SeparateAffine()  # The active transforms cannot be read in a traced function.
    transforms = active_transforms()
    return SeparateAffine() if transforms is None or 'Vmap' in transforms else nullcontext()


class SeparateAffine(TorchFunctionMode):
    """The mode of :func:`separate_affine`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or its composition."""
        kwargs = kwargs or {}
        if func is F.layer_norm:
            return _layer_norm(*args, **kwargs)
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.instance_norm:
            return _instance_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _layer_norm(
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    return _affine(F.layer_norm(input, normalized_shape, eps=eps), weight, bias)


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *options: Any,
    **named_options: Any,
) -> torch.Tensor:
    result = F.batch_norm(input, running_mean, running_var, None, None, *options, **named_options)
    return _affine(result, _by_channel(weight, result), _by_channel(bias, result))


def _instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *options: Any,
    **named_options: Any,
) -> torch.Tensor:
    result = F.instance_norm(
        input, running_mean, running_var, None, None, *options, **named_options
    )
    return _affine(result, _by_channel(weight, result), _by_channel(bias, result))


def _by_channel(values: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Return ``values`` along the second dimension of ``like``."""
    return None if values is None else values.view(-1, *[1] * (like.dim() - 2))


def _affine(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    result = x if weight is None else x * weight
    result = result if bias is None else result + bias
    return result.to(x.dtype)  # under autocast, weights may be in float32 beside 16-bit inputs
