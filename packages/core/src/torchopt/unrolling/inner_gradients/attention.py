"""Attention that has second derivatives, under autocast too."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchopt.authoring.numerics import SIXTEEN_BIT


def differentiable_attention() -> AbstractContextManager[Any]:
    """Let ``scaled_dot_product_attention`` in the block consist of differentiable operations.

    The fused kernels have no second derivative. torch's own composition has one, but under
    ``torch.func.grad`` and autocast it mixes dtypes. A traced function keeps what it calls.
    """
    return nullcontext() if torch.compiler.is_compiling() else ComposedAttention()


class ComposedAttention(TorchFunctionMode):
    """The mode of :func:`differentiable_attention`.

    Attributes:
        replaced: The functions that it replaces.
    """

    replaced = (F.scaled_dot_product_attention, F.multi_head_attention_forward)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or its composition."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        if func is F.multi_head_attention_forward and not kwargs.get('need_weights', True):
            # Its calls do not come through here. With weights, it composes them itself.
            output, _ = func(*args, **{**kwargs, 'need_weights': True})
            return output, None
        return func(*args, **kwargs)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return what ``torch.nn.functional.scaled_dot_product_attention`` returns.

    The softmax of 16-bit scores is taken in float32, as torch does it.

    Raises:
        ValueError: both a mask and ``is_causal`` are given.
    """
    if is_causal and attn_mask is not None:
        raise ValueError('scaled_dot_product_attention takes attn_mask or is_causal, not both')
    if enable_gqa:
        key, value = (
            tensor.repeat_interleave(query.size(-3) // tensor.size(-3), -3)
            for tensor in (key, value)
        )
    if scale is None:
        scale = 1 / math.sqrt(query.size(-1))
    # A part of the scale on each side, so that 16-bit products do not overflow.
    root = math.sqrt(abs(scale))
    scores = (query * math.copysign(root, scale)) @ (key * root).transpose(-2, -1)
    dtype = scores.dtype
    if dtype in SIXTEEN_BIT:
        scores = scores.float()
    if is_causal:
        shape = scores.shape[-2:]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    # Under is_causal, every query looks at the first key.
    if attn_mask is None or is_causal:
        weights = scores.softmax(-1)
    else:
        # torch gives a query that may look at nothing an output of 0.
        blind = (scores == -math.inf).all(-1, keepdim=True)
        weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return weights.to(dtype) @ value
