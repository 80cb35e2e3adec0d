"""Tensors that reach a step past its arguments: found in its graph, and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from torchopt.authoring.describe import describe
from torchopt.unrolling.context.closures import captured_tensors

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
    captured = [(name, tensor) for name, tensor in captured_tensors(fn) if tensor.requires_grad]
    names = {id(tensor): f'{name}, ' for name, tensor in captured}
    by_node = {tensor.grad_fn: tensor for _, tensor in captured if tensor.grad_fn is not None}
    described = '; '.join(
        names.get(id(tensor), '') + describe(tensor)
        for tensor in leaves_of_graph(roots, by_node)
        if id(tensor) not in known
    )
    raise RuntimeError(
        f'{place} depends on a tensor that requires grad and is not one of its arguments, so that '
        f'its gradient would be lost: {described}. {cure}'
    )


def leaves_of_graph(
    roots: Iterable[Any], stops: Mapping[Any, torch.Tensor] | None = None
) -> Iterator[torch.Tensor]:
    """Yield the leaves behind ``roots``; at a node in ``stops``, yield its tensor instead."""
    stops = stops or {}
    seen: set[Any] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.Tensor):
            yield node
        elif node in stops:
            yield stops[node]
        elif parents := node.next_functions:
            waiting.extend([parent for parent, _ in parents])
        elif hasattr(node, 'variable'):
            yield node.variable
