"""The backend behind ``compile=True``: fusion, but where it takes minutes and gains nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from torchopt.authoring.torch_internals import compiler_named

INDUCTOR = {'fallback_random': True}
"""Options: numbers come from torch's own generators, so that the step and its vjp draw the same."""

# Less than a millisecond, in which other operations count.
_MOST_MULTIPLICATIONS = 10_000_000

_CONVOLUTIONS = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)


def automatic() -> Callable[[torch.fx.GraphModule, Any], Callable[..., Any]] | None:
    """Return the backend; None where torch does not name its compilers.

    Convolutions take nearly all of the time of a graph, and inductor calls torch's own. What it
    fuses around them, it compiles for minutes on the CPU, because pooling and normalization have
    large second derivatives. A graph with convolutions of some size on the CPU is therefore
    traced, and runs without Python and without fusion.
    """
    fused, traced = compiler_named('inductor'), compiler_named('aot_eager')
    if fused is None or traced is None:
        return None
    return functools.partial(_compile, functools.partial(fused, config_patches=INDUCTOR), traced)


def _compile(
    fused: Callable[..., Any], traced: Callable[..., Any], module: torch.fx.GraphModule, inputs: Any
) -> Any:
    is_small = multiplications(module) <= _MOST_MULTIPLICATIONS
    return (fused if is_small else traced)(module, inputs)


def multiplications(module: torch.fx.GraphModule) -> int:
    """Count the multiplications in convolutions on the CPU; under ``torch.vmap`` of one example."""
    total = 0
    for node in module.graph.nodes:
        if node.op == 'call_function' and node.target in _CONVOLUTIONS:
            named = dict(zip(('input', 'weight'), node.args)) | node.kwargs
            x, weight, result = map(_example, (named.get('input'), named.get('weight'), node))
            if x is not None and weight is not None and result is not None:
                # Every weight meets every position of the smaller of the two images.
                total += weight.numel() * min(_positions(x, weight), _positions(result, weight))
    return total


def _positions(images: torch.Tensor, weight: torch.Tensor) -> int:
    """Count the pixels, in one channel, of a batch of images or of one."""
    # By shapes alone: what is traced under vmap takes no operation any more.
    count = images.shape[0] if images.dim() == weight.dim() else 1
    return count * math.prod(images.shape[2 - weight.dim() :])


def _example(node: Any) -> torch.Tensor | None:
    """Return the tensor on the CPU that Dynamo has traced a node with, if there is one."""
    value = getattr(node, 'meta', {}).get('example_value')
    is_here = isinstance(value, torch.Tensor) and value.device.type == 'cpu'
    return value if is_here else None
