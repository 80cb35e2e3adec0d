"""Gradients of a loss with respect to a tree, and the errors that a bad loss deserves."""

from __future__ import annotations

from typing import Any

import torch

from torchopt import _checks, pytree
from torchopt.typing import TensorTree


def gradients_of(loss: torch.Tensor, params: TensorTree, *, create_graph: bool) -> Any:
    """Return the tree of gradients; None for a leaf that gets none.

    A leaf gets none if it does not require grad or the loss does not depend on it. A tensor that
    stands in the tree twice is differentiated once.

    Raises:
        TypeError: ``loss`` is not a tensor, or a leaf neither a floating-point tensor nor None.
        ValueError: ``loss`` is not a scalar, or depends on no leaf that requires grad.
        RuntimeError: grad mode is off, or the call is being compiled.
    """
    _require_differentiable(loss)
    _checks.params(params)
    leaves, structure = pytree.tree_flatten(params, none_is_leaf=True)
    wanted = {id(leaf): leaf for leaf in leaves if leaf is not None and leaf.requires_grad}
    found: tuple[torch.Tensor | None, ...] = ()
    if wanted and loss.requires_grad:
        found = torch.autograd.grad(
            loss,
            list(wanted.values()),
            # What the loss was computed from may be part of the next loss, too.
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    if all(gradient is None for gradient in found):
        raise ValueError(
            'the loss does not depend on any parameter that requires grad: '
            'compute it from the current parameters, without detaching them'
        )
    by_leaf: dict[int, Any] = dict(zip(wanted, found))
    return pytree.tree_unflatten(structure, [by_leaf.get(id(leaf)) for leaf in leaves])


def _require_differentiable(loss: torch.Tensor) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            'a step on a loss cannot be compiled: gradients with create_graph=True inside a '
            'compiled function can be silently wrong. Compile the functional form instead, '
            'torch.func.grad over init, update(..., inplace=False) and apply_updates'
        )
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f'loss must be a tensor, got {type(loss).__name__}')
    if loss.dim() != 0 and loss.numel() != 1:
        raise ValueError(
            f'loss must be a scalar, got shape {tuple(loss.shape)}: take its mean or sum'
        )
    if not torch.is_grad_enabled():
        raise RuntimeError(
            'a differentiable step needs grad mode, but it is off here: leave torch.no_grad()'
        )
