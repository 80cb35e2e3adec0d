"""Tensors that reach a step past its arguments: found by what they leave on its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchopt.authoring.describe import describe, enumerate_few
from torchopt.authoring.torch_internals import (
    forward_grad_enabled,
    forward_grad_switch,
    in_dual_level,
)
from torchopt.unrolling.context.graph import leaves_of_graph
from torchopt.unrolling.context.reachable import reachable

_CURE = 'Pass it (or what is computed from it) through consts, detach it, or use backward=Stored()'


def require_no_captures(
    fn: Any,
    outputs: Iterable[torch.Tensor],
    inputs: Iterable[Any],
    *,
    place: str,
    cure: str = _CURE,
) -> None:
    """Raise if ``outputs`` depend on a tensor that requires grad and is not among ``inputs``.

    Costs nothing where no output requires grad. In a forward pass the inputs are detached, so that
    only a captured tensor, or a step that asks for the gradient of its carry, makes an output
    require grad.

    Args:
        fn: Function that was run; names of captured tensors are looked up in it.
        outputs: Tensors that it returned.
        inputs: Tensors that it received, among other leaves.
        place: The name of the run in the error.
        cure: The advice in the error.

    Raises:
        RuntimeError: there is such a tensor; the message names it.
    """
    roots = [output.grad_fn or output for output in outputs if output.requires_grad]
    if not roots:
        return
    known = {id(leaf) for leaf in inputs if isinstance(leaf, torch.Tensor)}
    if not any(id(leaf) not in known for leaf in leaves_of_graph(roots)):
        return
    # A captured tensor need not be a leaf of the graph. The author knows it, not its leaves.
    captured = [(name, tensor) for name, tensor in _tensors_of(fn) if tensor.requires_grad]
    names = {id(tensor): name for name, tensor in captured}
    by_node = {tensor.grad_fn: tensor for _, tensor in captured if tensor.grad_fn is not None}
    described = [
        _described(names.get(id(tensor)), tensor)
        for tensor in leaves_of_graph(roots, by_node)
        if id(tensor) not in known
    ]
    raise RuntimeError(
        f'{place} depends on a tensor that requires grad and is not one of its arguments, so that '
        f'its gradient would be lost: {enumerate_few(described)}. {cure}'
    )


@contextmanager
def tangents_recorded() -> Iterator[None]:
    """Let the tangents of dual tensors pass in the block, although autograd.Function stops them.

    Without a ``torch.autograd.forward_ad.dual_level`` there are none, and nothing happens.
    """
    switch = forward_grad_switch()
    if not in_dual_level() or forward_grad_enabled() or switch is None:
        yield
        return
    switch(True)
    try:
        yield
    finally:
        switch(False)


def require_no_tangents(fn: Callable[..., Any], outputs: Iterable[Any], *, place: str) -> None:
    """Raise if one of ``outputs`` is a dual tensor, whose tangent would be lost.

    Args:
        fn: Function that was run under :func:`tangents_recorded`, with arguments that are not dual.
        outputs: What it returned.
        place: The name of the run in the error.

    Raises:
        RuntimeError: there is such a tensor; the message names the dual tensors that ``fn`` sees.
    """
    if not in_dual_level():
        return
    with tangents_recorded():  # Otherwise no tensor seems to have a tangent.
        if not any(map(is_dual, outputs)):
            return
        captured = [(name, tensor) for name, tensor in _tensors_of(fn) if is_dual(tensor)]
    described = enumerate_few([_described(name, tensor) for name, tensor in captured])
    raise RuntimeError(
        f'{place} depends on a dual tensor of forward-mode differentiation that is not one of its '
        f'arguments, and whose tangent would be lost{": " if captured else ""}{described}. Use '
        'backward=Stored()'
    )


def is_dual(value: Any) -> bool:
    """Tell whether ``value`` is a tensor with a tangent."""
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    return isinstance(value, torch.Tensor) and unpack(value).tangent is not None


def _tensors_of(fn: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return reachable([('', fn)], (torch.Tensor,))


def _described(name: str | None, tensor: torch.Tensor) -> str:
    kind = describe(tensor)
    return kind if name is None else f'{name} ({kind})'
