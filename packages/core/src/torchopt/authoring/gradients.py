"""Gradients of a loss with respect to parameters, and clear errors for an unusable loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchopt.authoring.update_marks import mark_gradients


def gradients_of(
    loss: torch.Tensor, params: Sequence[torch.Tensor | None], *, create_graph: bool
) -> list[torch.Tensor | None]:
    """Return the gradient with respect to each of ``params``, or None where there is none.

    A parameter has no gradient if it does not require grad or the loss does not depend on it.

    Raises:
        TypeError: ``loss`` is not a tensor.
        ValueError: ``loss`` is not a scalar, or depends on no parameter that requires grad.
        RuntimeError: grad mode is off, the call is being compiled, or a parameter that carries a
            graph was converted to another dtype together with its module.
    """
    _require_differentiable(loss)
    wanted = [param for param in params if param is not None and param.requires_grad]
    found: Sequence[torch.Tensor | None] = ()
    if wanted and loss.requires_grad:
        found = torch.autograd.grad(
            loss,
            wanted,
            # The next loss may share part of this graph.
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    if all([gradient is None for gradient in found]):
        raise ValueError(
            'the loss does not depend on any parameter that requires grad: '
            'compute it from the current parameters, without detaching them'
        )
    mark_gradients(found, loss)
    for param, gradient in zip(wanted, found):
        if gradient is not None and gradient.dtype != param.dtype:
            raise RuntimeError(
                f'a parameter was converted to {param.dtype} while it carried the graph of earlier '
                f'steps, which still has {gradient.dtype}: call torchopt.stop_gradient on the '
                'module and on the optimizer before you convert the module'
            )
    if len(wanted) == len(params):
        return list(found)
    gradients = iter(found)
    return [
        next(gradients) if param is not None and param.requires_grad else None for param in params
    ]


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
