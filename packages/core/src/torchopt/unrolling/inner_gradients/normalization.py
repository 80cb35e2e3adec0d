"""Normalization whose learned weights have right second derivatives under ``torch.vmap``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchopt.authoring.torch_internals import active_transforms

_SIGNATURES: dict[Any, inspect.Signature] = {
    F.batch_norm: inspect.signature(F.batch_norm),
    F.instance_norm: inspect.signature(F.instance_norm),
    F.layer_norm: inspect.signature(F.layer_norm),
}


def separate_affine() -> AbstractContextManager[Any]:
    """Let normalizations in the block multiply by their weights in an operation of its own.

    Under ``torch.vmap``, torch computes the gradient by the weights of BatchNorm, LayerNorm and
    InstanceNorm from the saved mean and standard deviation, which are constants to a derivative
    from outside of the vmap: that derivative is silently wrong (2.4 to 2.13). A traced function
    keeps what it calls.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
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
        if func not in _SIGNATURES:
            return func(*args, **kwargs)
        given = _SIGNATURES[func].bind(*args, **kwargs).arguments
        weight, bias = given.pop('weight', None), given.pop('bias', None)
        result: torch.Tensor = func(**given)
        # The other two have one weight for each channel, the second dimension.
        shape = None if func is F.layer_norm else (-1, *[1] * (result.dim() - 2))
        if weight is not None:
            result = result * (weight if shape is None else weight.view(shape))
        if bias is not None:
            result = result + (bias if shape is None else bias.view(shape))
        return result
